"""Every method of `configs/digits` with every part that is to go with all of them, tried on a few images."""

import copy
import functools
import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from unittest.mock import patch

import torch
import yaml
from lightning import Trainer, seed_everything
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor, nn

import lightning_robust.attacks
import lightning_robust.models  # noqa: F401  (short names)
from benchmarks.common.recipes import CONFIGS, untaught
from lightning_robust.callbacks import AveragedWeights
from lightning_robust.data import RobustDataModule
from lightning_robust.defenses import Defense

Config: TypeAlias = dict[str, Any]
Prepared: TypeAlias = tuple[Defense, RobustDataModule, Config]
NET: Config = {"class_path": "SmallConvNet", "init_args": {"num_classes": 10, "in_channels": 1, "width": 4}}
BATCH = 8
TRAINER: Config = {"max_epochs": 2, "limit_train_batches": 2, "limit_val_batches": 0}
ALONE: Config = {
    **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    "accelerator": "cpu",
    "devices": 1,
}
SOON = {"start_epoch": 1, "begin": 1, "warmup": 1, "milestones": [1], "steps": 3}
"""What recipes hold, and what makes all of their parts work within two epochs."""


def semisupervised(data: Config) -> Config:
    """Half of each batch from unlabelled images."""
    if data["class_path"] == "SemiSupervised":
        return data
    labelled = {"class_path": data["class_path"], "init_args": {"unlabelled": 600}}
    return {"class_path": "SemiSupervised", "init_args": {"labelled": labelled, "val_size": 150}}


PARTS: dict[str, Config] = {
    "EMR": {"model": {"regularizers": {"class_path": "EffectiveWeightNorm", "init_args": {"weight": 1.0}}}},
    "AWP": {"model": {"weight_perturbation": {"class_path": "AdversarialWeightPerturbation"}}},
    "MAIL": {"model": {"reweighting": {"class_path": "MarginWeights", "init_args": {"start_epoch": 0}}}},
    "soft labels": {"data": {"mixing": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}}},
    "unlabelled images": {"around": semisupervised},
    "averaged weights": {"trainer": {"callbacks": [AveragedWeights(decay=0.5)]}},
    "accumulation": {"trainer": {"accumulate_grad_batches": 2}},
    "bf16": {"trainer": {"precision": "bf16-mixed"}},
    "compile": {"model": {"compile": True}},
}
"""What each part adds to a recipe: settings of the model, the data and the trainer, or data around its data."""
ALIKE: Config = {"data": {"mixing": {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "label_smoothing": 0.1}}}
"""Soft labels that do not depend on the device: MixUp takes an image's partner from its own device."""
SAME = ("compile",)
"""Parts that must not change the result."""


@dataclass(frozen=True)
class Outcome:
    """What became of a recipe: the training loss and the net's weights after two epochs, or why it was refused."""

    loss: float = math.nan
    weights: Tensor = field(default_factory=lambda: torch.zeros(0))
    refused: str = ""


def recipes() -> list[str]:
    """The recipes' names."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def tried(recipe: str, part: str | None = None) -> Outcome:
    """Train a recipe on a few images, with a part or without one."""
    try:
        defense, data, settings = prepared(recipe, part)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), cheaply_compiled():
            warnings.simplefilter("ignore")
            trainer = Trainer(**ALONE, **settings, default_root_dir=folder)
            trainer.fit(defense, data)
    except ValueError as error:
        return Outcome(refused=str(error))
    weights = torch.cat([p.detach().flatten() for p in defense.net.parameters()])
    return Outcome(float(trainer.callback_metrics["train/loss"]), weights)


def prepared(
    recipe: str, part: str | Config | None = None, net: Config = NET, teacher: Config = NET, batch_size: int = BATCH
) -> Prepared:
    """The defense, the data and the trainer's settings of a recipe whose parts begin soon and whose nets are small."""
    added = PARTS[part] if isinstance(part, str) else part or {}
    config = yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text())
    model = small(sooner(config["model"]), net)
    own = model["init_args"]
    untaught(own, teacher)
    for name, value in added.get("model", {}).items():
        own[name] = [*listed(own.get(name)), value] if isinstance(value, dict) else value
    data = added.get("around", lambda given: given)(config["data"])
    data.setdefault("init_args", {}).update(added.get("data", {}), batch_size=batch_size, seed=3)
    seed_everything(0, verbose=False)
    made = parser().instantiate_classes(parser().parse_object({"model": model, "data": data}))
    clip = {"gradient_clip_val": config["trainer"].get("gradient_clip_val")}
    return made.model, made.data, {**TRAINER, **clip, **copy.deepcopy(added.get("trainer", {}))}


def listed(value: Any) -> list[Any]:
    """One value or several, as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]


@contextmanager
def cheaply_compiled() -> Iterator[None]:
    """Inside, nets are compiled without generating code, which takes a second instead of a minute."""
    compiled = nn.Module.compile
    with patch.object(nn.Module, "compile", lambda net, **given: compiled(net, backend="aot_eager", **given)):
        yield


@functools.cache
def parser() -> LightningArgumentParser:
    """Reads the model and the data of a recipe."""
    found = LightningArgumentParser(exit_on_error=False)
    found.add_subclass_arguments(Defense, "model")
    found.add_subclass_arguments(RobustDataModule, "data")
    return found


def sooner(value: Any) -> Any:
    """The configuration with every warm-up ending after one epoch, and attacks of three steps."""
    if isinstance(value, list):
        return [sooner(part) for part in value]
    if not isinstance(value, dict):
        return value
    return {key: SOON[key] if key in SOON else sooner(part) for key, part in value.items()}


def small(value: Any, net: Config) -> Any:
    """The configuration with another net in place of each SmallConvNet."""
    if isinstance(value, list):
        return [small(part, net) for part in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_path") == NET["class_path"]:
        return net
    return {key: small(part, net) for key, part in value.items()}
