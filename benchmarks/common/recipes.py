"""One recipe at a radius and a seed: trained and tested, or timed."""

import hashlib
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import Callback
from torch import Tensor

from benchmarks.common.timing import now
from lightning_robust.attacks import PGD, Collaborative
from lightning_robust.cli.robust_cli import RobustCLI
from lightning_robust.losses import cross_entropy
from lightning_robust.metrics.functional import effective_margin
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from lightning_robust.types import to_float
from lightning_robust.utils.batch_reader import as_batch

CONFIGS = Path(__file__).parents[2] / "configs" / "digits"
WATCHERS = ("Curves", "EffectiveMargins", "RadiusHistogram")
"""Callbacks that only look at a fit, and are left out."""
VALIDATIONS = 20
"""How often a fit is validated, evenly over its epochs, the last one included."""
WARMUP, SETTLED = 4, 6
"""Before steps are timed, epochs after which every part of a method works, and epochs trained."""


@dataclass(frozen=True)
class Run:
    """What one fit gave on the test set: accuracies in percent, mean effective margin (l2), mean gap (nats)."""

    recipe: str
    eps: float
    seed: int
    config: str
    clean: float
    robust: float
    margin: float
    gap: float
    cpu_seconds: float


def adapted(recipe: str, eps: float, epochs: int | None = None, configs: Path = CONFIGS) -> dict[str, Any]:
    """The recipe's YAML at another radius: steps, and IAAT's gamma, in proportion; no figures, no watchers.

    Of a recipe with several norms it is the linf radius, and the others follow in proportion.
    """
    config: dict[str, Any] = yaml.safe_load((configs / f"{recipe}.yaml").read_text())
    model = config["model"]["init_args"]
    threats = _threats(model["attack"])
    (linf,) = [threat for threat in threats if threat.get("norm", "linf") == "linf"]
    factor = eps / to_float(linf["eps"])
    for threat in threats:
        threat["eps"] = eps if threat is linf else to_float(threat["eps"]) * factor
    if config["model"]["class_path"] == "IAAT":
        model["gamma"] = to_float(model["gamma"]) * factor
    _rescale_steps(config, factor)
    trainer = config["trainer"]
    trainer.update(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False)
    kept = [callback for callback in trainer.get("callbacks") or () if callback["class_path"] not in WATCHERS]
    trainer.update(callbacks=kept or None, max_epochs=epochs or trainer["max_epochs"])
    trainer["check_val_every_n_epoch"] = max(1, trainer["max_epochs"] // VALIDATIONS)
    config["evaluation"]["figure_samples"] = 0
    config["checkpoint"] = {**config.get("checkpoint", {}), "save_last": False}
    return config


def _threats(node: Any) -> list[dict[str, Any]]:
    """Every threat in the config of an attack, which may hold others."""
    children = node.values() if isinstance(node, dict) else ()
    own = [node["threat"]] if isinstance(node, dict) and "threat" in node else []
    return own + [threat for child in children for threat in _threats(child)]


def _rescale_steps(node: Any, factor: float) -> None:
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _rescale_steps(child, factor)
    if isinstance(node, dict) and node.get("step_size") is not None:
        node["step_size"] = to_float(node["step_size"]) * factor


def identity(config: dict[str, Any]) -> str:
    """Of what a result was measured with: results of a recipe changed since are not taken for its own."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]


class QuietCLI(RobustCLI):
    def after_fit(self) -> None:
        """Keep silent."""


def fitted(config: dict[str, Any], seed: int, folder: str, callbacks: Sequence[Callback] = ()) -> QuietCLI:
    """Run a recipe's fit with this seed and further callbacks, with everything it leaves in the folder."""

    class WithCallbacks(QuietCLI):
        def before_fit(self) -> None:
            self.trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]

    config = {**config, "seed_everything": seed, "trainer": {**config["trainer"], "default_root_dir": folder}}
    file = Path(folder, "recipe.yaml")
    file.write_text(yaml.safe_dump(config))
    try:
        return WithCallbacks(["fit", "--config", str(file)])
    except SystemExit as error:
        raise ValueError("The command line refused the recipe; its message stands above.") from error


def measure(recipe: str, eps: float, seed: int, epochs: int | None = None) -> Run:
    """Train in a temporary folder, and test the best checkpoint by the recipe's own monitor."""
    config, start = adapted(recipe, eps, epochs), now()
    with tempfile.TemporaryDirectory() as folder:
        cli = fitted(config, seed, folder)
        seconds = now() - start
        (tested,) = cli.trainer.test(cli.model, cli.datamodule, ckpt_path="best", verbose=False)
    (given,) = cli.datamodule.test_dataloader()  # the whole test set is one batch
    x, y, _ = as_batch(given)
    return Run(
        recipe,
        eps,
        seed,
        identity(config),
        clean=round(100 * tested["test/clean_acc"], 3),
        robust=round(100 * tested["test/pgd50_acc"], 3),
        margin=round(float(effective_margin(cli.model, x, y).mean()), 6),
        gap=round(collaborative_gap(cli.model, x, y, eps), 6),
        cpu_seconds=round(seconds, 1),
    )


def collaborative_gap(net: Any, x: Tensor, y: Tensor, eps: float) -> float:
    """Mean CE(x_adv) - CE(x_col) in nats: PGD-20 up the cross-entropy and down."""
    threat, rng = Threat("linf", eps), SampleRNG(0, torch.arange(len(x)))
    attacks = (PGD(threat, steps=20), Collaborative(threat, steps=20))
    up, down = (cross_entropy(logits_no_grad(net, attack(net, x, y, rng=rng)), y).mean() for attack in attacks)
    return float(up - down)


class Steps(Callback):
    """An arm: the median seconds of the steps of one epoch, from the end of the first step on.

    The first call trains some epochs before, so that IAAT's radii and the weight perturbations are at work; each call
    then goes on with the same net. Loading and logging are in, validation is not.
    """

    def __init__(self, config: dict[str, Any], folder: str) -> None:
        self.config, self.folder = config, tempfile.mkdtemp(dir=folder)
        self.config["trainer"]["max_epochs"] = SETTLED
        unvalidated(self.config)
        hasten(self.config, WARMUP)
        self.cli: QuietCLI | None = None
        self.ends: list[float] = []

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(now())

    def __call__(self) -> float:
        if self.cli is None:
            self.cli = fitted(self.config, 0, self.folder)
            self.cli.trainer.callbacks.append(self)  # type: ignore[attr-defined]
        self.ends.clear()
        trainer = self.cli.trainer
        trainer.fit_loop.max_epochs = trainer.current_epoch + 1
        trainer.fit(self.cli.model, self.cli.datamodule)
        return statistics.median(b - a for a, b in zip(self.ends, self.ends[1:], strict=False))


def unvalidated(config: dict[str, Any]) -> None:
    """Leave out validation, and what waits for its results: the choice of checkpoints, and early stopping."""
    trainer = config["trainer"]
    kept = [callback for callback in trainer.get("callbacks") or () if callback["class_path"] != "EarlyStopping"]
    trainer.update(limit_val_batches=0, callbacks=kept or None)
    config["checkpoint"] = {"monitor": None, "save_top_k": 0}


def untaught(model: dict[str, Any], net: dict[str, Any]) -> None:
    """Put an untrained net in the place of a trained teacher, of which there is no file."""
    if model.get("teacher", {}).get("class_path") == "Pretrained":
        model["teacher"] = net


def hasten(node: Any, epochs: int) -> None:
    """Let each part of a recipe begin after so many epochs, or before."""
    if isinstance(node, dict):
        for key in {"start_epoch", "warmup"} & node.keys():
            node[key] = min(node[key], epochs)
        for child in node.values():
            hasten(child, epochs)
