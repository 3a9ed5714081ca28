"""One row for each method: what it trains on, its passes and price, what it needs, and what does not go with it.

python -m benchmarks.methods [--jobs 2]
"""

import csv
import inspect
import os
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import auto_cli
from lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.common.combinations import ALONE, PARTS, Config, prepared, recipes, tried
from benchmarks.common.processes import quiet, workers
from benchmarks.common.recipes import CONFIGS, SETTLED, WARMUP, adapted, fitted, hasten, untaught, unvalidated
from benchmarks.common.tables import RESULTS, Row, write
from lightning_robust.attacks import PGD
from lightning_robust.data import SemiSupervised
from lightning_robust.defenses import ALP, AT, MART, ST, TRADES, Defense, Standard
from lightning_robust.models import SmallConvNet
from lightning_robust.parts import ClassMeans, PerSample

COMMON = (Standard, AT, TRADES, MART, ALP, ST, PGD, SmallConvNet)
"""What a recipe may have beside the one class that makes it a method; alone, a defense of these is one itself."""
REFUSES = "does not go with"


class Method(NamedTuple):
    """A class that makes a method, and the recipes that have it alone, the one of its name first."""

    kind: type
    recipes: list[str]


def methods() -> list[Method]:
    """The methods of `configs/digits`, in the order of their recipes' names.

    Combinations of several are left out, and so is what another method is a preset of.
    """
    found: dict[type, list[str]] = {}
    presets: set[type] = set()
    for recipe in recipes():
        defense, data, _ = prepared(recipe)
        own, parts = type(defense), {type(part) for part in parts_of(defense)}
        given = (CONFIGS / f"{recipe}.yaml").read_text()
        if own not in COMMON:
            presets |= {kind for kind in parts if kind.__name__ not in given}
            kinds = {own, *(kind for kind in parts if kind.__name__ in given)}
        else:
            kinds = {type(defense.net), type(defense.attack), *parts} - {*COMMON}
        kinds |= {type(data)} & {SemiSupervised}
        if len(kinds) < 2:
            found.setdefault((*kinds, own)[0], []).append(recipe)
    for kind, names in found.items():
        called = kind.__name__.lower()
        names.sort(key=lambda name, called=called: (name != called, len(name), name))  # type: ignore[misc]
    return sorted(
        (Method(kind, names) for kind, names in found.items() if kind not in presets), key=lambda m: m.recipes
    )


def parts_of(defense: Defense) -> list[Any]:
    """The parts that a defense consists of."""
    return [*defense.regularizers, *defense.reweightings, *defense.weight_perturbations]


class Passes(Callback):
    """Counts the images that pass the net forward, and backward from its logits, for each image of an epoch."""

    def __init__(self) -> None:
        self.images: Counter[str] = Counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Count the last epoch alone."""
        self.images.clear()
        if trainer.current_epoch == 0:
            pl_module.net.register_forward_hook(self.passed)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the batch's images."""
        self.images["trained on"] += len(batch[0])

    def passed(self, net: nn.Module, images: tuple[Tensor, ...], logits: Tensor) -> None:
        """Count a forward pass, and its backward passes when they come."""
        self.images["forward"] += len(logits)
        if logits.requires_grad:
            logits.register_hook(lambda grad: self.images.update(backward=len(grad)))  # type: ignore[no-untyped-call]

    def __str__(self) -> str:
        forward, backward = (self.images[way] / self.images["trained on"] for way in ("forward", "backward"))
        return f"{forward:.3g} / {backward:.3g}"


def passes(recipe: str, batches: int | None = None) -> str:
    """Forward and backward passes of the net for each image, when all parts of the recipe are at work.

    Counted in so many batches of the last epoch, by default in all.
    """
    config, counts = adapted(recipe, 0.15, SETTLED), Passes()
    unvalidated(config)
    config["trainer"]["limit_train_batches"] = batches
    untaught(config["model"]["init_args"], {"class_path": "SmallConvNet"})
    hasten(config, WARMUP)
    with tempfile.TemporaryDirectory() as folder:
        fitted(config, 0, folder, [counts])
    return str(counts)


def needs(recipe: str) -> str:
    """What a recipe asks for beside images and labels, and what it keeps."""
    defense, data, settings = prepared(recipe)
    kept = list(vars(defense).values())
    found = ["unlabelled images"] if isinstance(data, SemiSupervised) else []
    found += ["a teacher"] if "teacher" in inspect.signature(type(defense)).parameters else []
    found += ["positions of samples"] if not without_positions(defense, settings) else []
    found += ["a number for each sample"] if any(isinstance(each, PerSample) for each in kept) else []
    found += ["numbers for each class"] if any(isinstance(each, ClassMeans) for each in kept) else []
    found += ["a copy of the weights"] if defense.weight_perturbations else []
    return ", ".join(found)


def without_positions(defense: Defense, settings: Config) -> bool:
    """Whether a defense trains on batches that do not tell the samples' positions in the data set."""
    images = TensorDataset(torch.rand(16, 1, 8, 8), torch.arange(16) % 10)
    with tempfile.TemporaryDirectory() as folder:
        try:
            Trainer(**settings, **ALONE, default_root_dir=folder).fit(defense, DataLoader(images, batch_size=8))
        except (TypeError, ValueError) as error:
            if "index" not in str(error):
                raise
            return False
    return True


def measured(recipe: str) -> dict[str, str]:
    """A recipe's passes, needs, and the parts that it refuses."""
    refused = [part for part in PARTS if tried(recipe, part).refused]
    return {"passes": passes(recipe), "needs": needs(recipe), REFUSES: ", ".join(refused) or "-"}


def prices() -> dict[str, str]:
    """What a step of each recipe takes over one of AT, as `benchmarks.defenses` measured it last."""
    with (RESULTS / "defenses_steps.csv").open(newline="") as file:
        return {line["recipe"]: f"{float(line['ratio']):.2f}" for line in csv.DictReader(file)}


def described(method: Method) -> dict[str, str]:
    """What the docstring and the recipes say of a method."""
    text = inspect.getdoc(method.kind) or ""
    summary = " ".join(text.split("\n\n")[0].split()).removeprefix("Trains on ").rstrip(".")
    comment = (CONFIGS / f"{method.recipes[0]}.yaml").read_text().splitlines()[0]
    title = re.split(r",? on scikit|:", re.sub(r", arXiv [\d.]+", "", comment.removeprefix("# ")))[0]
    paper = re.search(r"arXiv (\d+\.\d+)", text)
    source = re.search(r"^Reference:\s+([\w.-]+/([\w.-]+))@(\w+)", text, re.MULTILINE)
    return {
        "method": f"[{title}](https://arxiv.org/abs/{paper[1]})" if paper else title,
        "name here": f"`{method.kind.__name__}`",
        "what it does": (summary[0].upper() + summary[1:]).replace("|", r"\|"),  # else it would end the cell
        "recipes": "; ".join(f"`{name}` ({', '.join(datasets(name))})" for name in method.recipes),
        "reference": f"[{source[2]}](https://github.com/{source[1]}/tree/{source[3]})" if source else "-",
    }


def row(text: dict[str, str], price: str, outcome: dict[str, str]) -> Row:
    """What is said of a method, and what was measured, in the order of the columns."""
    last = {name: text.pop(name) for name in ("recipes", "reference")}
    return {**text, "price": price, **outcome, **last}


def datasets(recipe: str) -> list[str]:
    """The data sets for which there is a recipe of this name."""
    return sorted(path.parent.name for path in CONFIGS.parent.glob(f"*/{recipe}.yaml"))


CAPTION = (
    "Passes: how many times each image of a batch passes the net forward / backward in a step of the digits recipe, "
    f"counted in epoch {SETTLED}; a teacher's are not counted. Price: a step on digits over one of AT (-: not "
    f"measured). Needs: beside images and labels. {REFUSES.capitalize()}: what of {', '.join(PARTS)} it refuses, with "
    "a sentence that says why; with all others it trains. Reference: the code that it was written after."
)


def main(jobs: int = os.cpu_count() or 1, results: Path = RESULTS) -> None:
    """Try each method with each part, print the table, and leave it in `results/methods.md`.

    Args:
        jobs: methods at a time, each in a process of one thread.
        results: where the table is left; prices come from the `defenses_steps.csv` of benchmarks/results.
    """
    quiet()
    found, price = methods(), prices()
    with tempfile.TemporaryDirectory() as folder, workers(jobs, folder) as pool:
        outcomes = [*pool.map(measured, [method.recipes[0] for method in found])]
    rows: list[Row] = []
    for method, outcome in zip(found, outcomes, strict=True):
        rows.append(row(described(method), price.get(method.recipes[0], "-"), outcome))
    print(write("methods", "Every method", rows, CAPTION, results))


if __name__ == "__main__":
    auto_cli(main)
