"""What the ingredients of today's recipes do to AT, TRADES and ST on digits: each alone against the plain recipe.

python -m benchmarks.ingredients [--defenses [at,trades]] [--ingredients [none,smoothing]] [--seeds 5] [--jobs 2]
"""

import copy
import math
import os
import signal
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import auto_cli

from benchmarks.common.processes import quiet
from benchmarks.common.recipes import adapted, fitted, identity
from benchmarks.common.runs import read, run_all
from benchmarks.common.tables import RESULTS, Row, write

EPS = 0.15
EPOCHS = 20
"""Half the recipes' own length."""
DEFENSES = ("at", "trades", "st")


def averaged(**settings: Any) -> list[dict[str, Any]]:
    """The callback that averages weights."""
    return [{"class_path": "AveragedWeights", "init_args": settings}]


INGREDIENTS: dict[str, dict[str, Any]] = {
    "none": {},
    "smoothing": {"model": {"init_args": {"label_smoothing": 0.1}}},
    "ema": {"trainer": {"callbacks": averaged(decay=0.99, ramp=True)}},
    "swa": {"trainer": {"callbacks": averaged(decay=None, start_epoch=15, every="epoch", batch_norm="recompute")}},
    "mixup": {"data": {"init_args": {"mixing": {"mixup_alpha": 0.8, "cutmix_alpha": 0.0}}}},
    "no_decay": {"model": {"init_args": {"parameter_groups": {"no_decay": "norm_and_bias"}}}},
    "apgd2": {"model": {"init_args": {"attack": {"class_path": "TrainingAPGD", "init_args": {"steps": 2}}}}},
}
"""What each changes in a recipe; a value replaces the recipe's, a mapping goes into it."""
TITLES = {
    "none": "the recipe as it is",
    "smoothing": "label smoothing 0.1",
    "ema": "EMA, decay 0.99",
    "swa": "SWA of the last 5 epochs",
    "mixup": "MixUp, alpha 0.8",
    "no_decay": "no decay of norms and biases",
    "apgd2": "APGD with 2 steps",
}
REFUSED = {("st", "apgd2"): "ST searches with PGD"}
"""What a defense does not take, and why."""


@dataclass(frozen=True)
class Run:
    """What one fit gave on the test set, accuracies in percent."""

    defense: str
    ingredient: str
    seed: int
    config: str
    clean: float
    robust: float


class Key(NamedTuple):
    """What one fit is measured for."""

    defense: str
    ingredient: str
    seed: int
    epochs: int


def merged(config: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with changes; both are left as they are."""
    result = {**copy.deepcopy(config)}
    for key, value in change.items():
        inner = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if inner else copy.deepcopy(value)
    return result


def recipe(key: Key) -> dict[str, Any]:
    """The whole configuration, tested by APGD-CE and APGD-T."""
    config = merged(adapted(key.defense, EPS, key.epochs), INGREDIENTS[key.ingredient])
    attack = config["model"]["init_args"]["attack"]
    if attack["class_path"] == "TrainingAPGD":
        taken = ("threat", "steps", "start") if key.defense == "trades" else ("threat", "steps")
        attack["init_args"] = {name: value for name, value in attack["init_args"].items() if name in taken}
    config["evaluation"]["attacks"] = {"autoattack": {"class_path": "AutoAttack", "init_args": {"version": "rapid"}}}
    return config


def measure(key: Key) -> Run:
    """Train in a temporary folder, and test the best checkpoint by the recipe's own monitor."""
    config = recipe(key)
    with tempfile.TemporaryDirectory() as folder:
        cli = fitted(config, key.seed, folder)
        (tested,) = cli.trainer.test(cli.model, cli.datamodule, ckpt_path="best", verbose=False)
    clean, robust = (round(100 * tested[f"test/{name}_acc"], 3) for name in ("clean", "autoattack"))
    return Run(key.defense, key.ingredient, key.seed, identity(config), clean, robust)


def table(runs: Sequence[Run]) -> list[Row]:
    """A row for each defense and ingredient: accuracies, and the differences to the recipe as it is, by seed."""
    of = {(run.defense, run.ingredient, run.seed): run for run in runs}
    rows: list[Row] = []
    for defense, ingredient in dict.fromkeys((run.defense, run.ingredient) for run in runs):
        mine = [run for run in runs if (run.defense, run.ingredient) == (defense, ingredient)]
        row: dict[str, str | float] = {"defense": defense, "with": TITLES[ingredient]}
        for name in ("clean", "robust"):
            title = "clean" if name == "clean" else "AutoAttack"
            plain = {run.seed: getattr(of[defense, "none", run.seed], name) for run in mine}
            row[f"{title} %"] = f"{statistics.mean(getattr(run, name) for run in mine):.1f}"
            row[f"{title}, change"] = difference([getattr(run, name) - plain[run.seed] for run in mine])
        rows.append(row | {"seeds": len(mine)})
    return rows


def difference(values: Sequence[float]) -> str:
    """Mean and standard error."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):+.1f} ± {error:.1f}"


def main(
    defenses: list[str] | None = None,
    ingredients: list[str] | None = None,
    seeds: int = 5,
    jobs: int = os.cpu_count() or 1,
    results: Path = RESULTS,
    max_epochs: int = EPOCHS,
) -> None:
    """Measure what is missing, print the table, and leave it in `results/ingredients.md`.

    Args:
        defenses: of at, trades and st; by default all.
        ingredients: by default all; "none", which the others are compared with, is always measured.
        seeds: how many, from 0 on.
        jobs: fits at a time, each of one thread.
        results: where everything is left: raw numbers in ingredients_runs.csv.
        max_epochs: epochs of each fit.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the workers too, as an interrupt does
    quiet()
    names = dict.fromkeys(["none", *(ingredients or INGREDIENTS)])
    pairs = [(d, i) for i in names for d in defenses or DEFENSES if (d, i) not in REFUSED]
    wanted = [Key(*pair, seed, max_epochs) for seed in range(seeds) for pair in pairs]
    configs = {key: identity(recipe(key)) for key in wanted}
    file = results / "ingredients_runs.csv"
    known = {(run.defense, run.ingredient, run.seed, run.config) for run in read(file, Run)}
    done = {key for key in wanted if (*key[:3], configs[key]) in known}
    failures = run_all(file, done, {key: " ".join(map(str, key[:3])) for key in wanted}, measure, jobs)
    found = {(run.defense, run.ingredient, run.seed, run.config): run for run in read(file, Run)}
    order = sorted(wanted, key=lambda key: (DEFENSES.index(key.defense), [*INGREDIENTS].index(key.ingredient)))
    runs = [found[run] for key in order if (run := (*key[:3], configs[key])) in found]
    compared = {(run.defense, run.seed) for run in runs if run.ingredient == "none"}
    if rows := table([run for run in runs if (run.defense, run.seed) in compared]):
        caption = (
            f"After {max_epochs} epochs, on the 450 test images, linf {EPS:g}, of the checkpoint that was best by the "
            "recipe's own monitor. AutoAttack: its version rapid, APGD-CE and APGD-T. Change: mean over seeds of the "
            "difference to the recipe as it is, trained with the same seed, and its standard error, in points. "
            + " ".join(f"Without {d} and {TITLES[i]}: {why}." for (d, i), why in REFUSED.items())
        )
        print(write("ingredients", "What today's ingredients do, on digits", rows, caption, results))
    if failures:
        raise SystemExit("Failed, and left out:\n" + "\n".join(failures))


if __name__ == "__main__":
    auto_cli(main)
