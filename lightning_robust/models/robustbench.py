"""Nets of the RobustBench model zoo."""

import importlib
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from lightning_robust.models.normalize import check_channels
from lightning_robust.utils.extras import import_extra
from lightning_robust.utils.messages import did_you_mean
from lightning_robust.utils.sha256 import check_sha256


class RobustBenchModel(nn.Module):
    """A net of the RobustBench model zoo, with the normalisation it was trained with inside.

    Its checkpoint is downloaded once, to `<folder>/<dataset>/<threat>/<name>.pt`. From the command line, with the data
    and attacks of a recipe: `lightning-robust test --config <recipe> --model Standard --model.net
    robustbench:Linf/<name>`.

    Args:
        name: the leaderboard's model ID.
        dataset: "cifar10", "cifar100" or "imagenet".
        threat: the leaderboard's threat model: "Linf", "L2" or "corruptions".
        folder: folder that checkpoints are downloaded to.
        pretrained: load the checkpoint; otherwise only build the net, for weights of one's own.
        sha256: expected SHA-256 of the checkpoint. A file that is already there is checked before it is read. A
            downloaded one is read as tensors and plain values only (torch's default) and then checked.

    Raises:
        ImportError: without the package robustbench (the extra `robustbench`).
        ValueError: for a name that is not in this part of the zoo, a checkpoint with another SHA-256, or
            `pretrained` false for a net that the zoo builds with its weights only.

    Paper: Croce et al. 2021 (arXiv 2010.09670).
    Reference: RobustBench/robustbench@78fcc9e.
    """

    def __init__(
        self,
        name: str,
        dataset: Literal["cifar10", "cifar100", "imagenet"] = "cifar10",
        threat: Literal["Linf", "L2", "corruptions"] = "Linf",
        folder: str = "models",
        sha256: str | None = None,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        zoo = _import_zoo()
        enums = importlib.import_module("robustbench.model_zoo.enums")
        known = zoo.all_models[enums.BenchmarkDataset(dataset)].get(enums.ThreatModel(threat), {})
        if name not in known:
            raise ValueError(f"RobustBench has no model {name!r} for {dataset} and {threat}{did_you_mean(name, known)}")
        if pretrained:
            self.net: nn.Module = _load(zoo, name, dataset, threat, folder, sha256)
        else:
            self.net = _build(name, known[name])
        first = next((module for module in self.net.modules() if isinstance(module, nn.Conv2d)), None)
        self._channels = None if first is None else first.in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k] for images [b 3 h w] in [0, 1]."""
        if self._channels is not None:
            check_channels(x, self._channels)  # the zoo's own normalisation would copy a single one
        logits: Tensor = self.net(x)
        return logits


def _load(zoo: Any, name: str, dataset: str, threat: str, folder: str, sha256: str | None) -> nn.Module:
    """Load a net of the zoo with its checkpoint, whose SHA-256 is checked before and after."""
    file = Path(folder, dataset, threat, f"{name}.pt")
    if sha256 is not None and file.exists():
        check_sha256(file, sha256)
    net: nn.Module = zoo.load_model(name, model_dir=folder, dataset=dataset, threat_model=threat)
    if sha256 is not None:
        if not file.exists():
            raise ValueError(f"{name} has no file {file} to check: timm keeps it elsewhere, or it is an ensemble.")
        check_sha256(file, sha256)
    return net


def _build(name: str, entry: Mapping[str, Any]) -> nn.Module:
    """Build a net of the zoo without its checkpoint."""
    if not entry.get("gdrive_id") or not isinstance(entry["gdrive_id"], str):  # of timm, torchvision, or an ensemble
        raise ValueError(f"RobustBench builds {name} with its weights only: leave pretrained at true.")
    net: nn.Module = entry["model"]()
    return net


def _import_zoo() -> Any:
    # release 1.1.1 depends on pyautoattack but imports it under its GitHub name, and fails without it:
    # https://github.com/RobustBench/robustbench/blob/master/robustbench/eval.py
    if find_spec("autoattack") is None and find_spec("pyautoattack") is not None:
        sys.modules["autoattack"] = importlib.import_module("pyautoattack")
    try:
        return import_extra("robustbench.utils", "robustbench")
    except ImportError as error:
        if getattr(error.__cause__, "name", None) != "pkg_resources":
            raise
        raise ImportError(
            "The package robustbench imports pkg_resources, which setuptools has no longer since release 82: "
            "pip install 'setuptools<82'."
        ) from error
