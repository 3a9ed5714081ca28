"""Nets with the weights that they were trained to: from a folder, a file or the Hugging Face Hub."""

import importlib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_robust.models.weight_files import find_weights, read_config, read_weights
from lightning_robust.runtime.modes import for_inference

_PACKAGE = "lightning_robust.models"
_NOT_BUILT = ("Normalize", "Pretrained", "RobustBenchModel")  # no nets of their own, or fetched from elsewhere
_ELSEWHERE = ("cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "weights")
_BUILD_IT = "build the net yourself and use load_weights(net, source), or give it to Pretrained as `net`"


class Pretrained(nn.Module):
    """A net to start from, with exported weights: `net: {class_path: Pretrained, init_args: {source: <folder>}}`.

    Args:
        source: as for `load_weights`.
        sha256: of the file of weights, to be sure which they are.
        revision: on the Hub: a branch, a tag or a commit.
        net: what to load into; by default what the export's `config.json` describes (see `from_pretrained`).

    Raises:
        ImportError: without safetensors or huggingface_hub (the extra `zoo`).
        ValueError: as for `from_pretrained`.
    """

    def __init__(
        self, source: str, sha256: str | None = None, revision: str | None = None, net: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.net = _pretrained(source, revision, sha256) if net is None else load_weights(net, source, revision, sha256)

    def forward(self, x: Tensor) -> Tensor:
        """Images [b c h w] in [0, 1] to logits [b k]."""
        logits: Tensor = self.net(x)
        return logits


def from_pretrained(source: str | Path, revision: str | None = None, sha256: str | None = None) -> nn.Module:
    """The exported net, in evaluation mode: images [b c h w] in [0, 1] to logits [b k].

    Its `config.json`, which may be a stranger's, chooses among the nets of `lightning_robust.models` (torchvision's
    and timm's by name among them) and their plain settings; nothing else is imported, run or downloaded for it.

    Args:
        source: a folder of `export_weights`, or `organisation/name` on the Hugging Face Hub.
        revision: on the Hub: a branch, a tag or a commit.
        sha256: of `model.safetensors`; that in `config.json` is always checked.

    Raises:
        ImportError: without safetensors, huggingface_hub or timm (the extra `zoo`) where they are needed.
        ValueError: if there is nothing to load, it is damaged, is not what the checksum says, or needs a class of
            another package.
    """
    return for_inference(_pretrained(source, revision, sha256))


def load_weights(
    net: nn.Module, source: str | Path, revision: str | None = None, sha256: str | None = None
) -> nn.Module:
    """Load weights into `net`, all of them or none, and give it back in the mode in which it is.

    Args:
        net: of any class.
        source: a folder of `export_weights`, `organisation/name` on the Hugging Face Hub, a file of safetensors, or a
            checkpoint: of ours, of RobustBench (`.pt`) or any other whose weights are named as the net's, perhaps
            behind `module.`, `model.` or `net.`. Nothing but tensors and plain values is loaded from it.
        revision: on the Hub: a branch, a tag or a commit.
        sha256: of the file of weights; that in `config.json` is always checked.

    Raises:
        ImportError: without safetensors or huggingface_hub (the extra `zoo`) where they are needed.
        ValueError: if there is nothing to load, it is damaged, is not what the checksum says, or does not fit the net.
    """
    path = find_weights(source, revision, sha256)
    return fill(net, read_weights(path), str(path))


def fill(net: nn.Module, weights: Mapping[str, Tensor], source: str) -> nn.Module:
    """Load the tensors into `net`, all of them or none, by name.

    Raises:
        ValueError: for names or shapes that are not the net's; `source` says whose they are.
    """
    own = net.state_dict()
    for prefix in ("module.", "model.", "net."):  # what wrappers put before every name
        if not own.keys() & weights.keys() and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    shapes = [
        f"{name} is {list(weights[name].shape)}, the net's {list(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    kinds = {"missing": own.keys() - weights.keys(), "not in the net": weights.keys() - own.keys(), "shapes": shapes}
    faults = [f"{kind}: {_some(names)}" for kind, names in kinds.items() if names]
    if faults:
        raise ValueError(f"The weights of {source} do not fit {type(net).__name__} ({'; '.join(faults)}).")
    net.load_state_dict(weights)
    return net


def build(config: Any) -> nn.Module:
    """The net that `{class_path, init_args}` describes, without its weights; see `from_pretrained` for what may be.

    Raises:
        ImportError: without timm, for one of its nets.
        ValueError: for any other class, and for settings that would fetch other weights or that the class refuses.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("init_args", {}), Mapping):
        raise ValueError(f"The export's config.json describes no net: {_BUILD_IT}.")
    cls, settings = net_class(config.get("class_path")), dict(config.get("init_args", {}))
    if cls is None:
        raise ValueError(
            f"The export's config.json asks for {config.get('class_path')!r}, which is no net of {_PACKAGE}: nothing "
            f"else is built from a file; {_BUILD_IT}."
        )
    parts = [part for part in (settings, settings.get("options")) if isinstance(part, Mapping)]
    outside = [name for part in parts for name in _ELSEWHERE if part.get(name)]
    if outside:
        raise ValueError(f"The export's config.json asks for other weights ({', '.join(outside)}): refused.")
    try:
        return cls(**settings)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"The export's config.json does not describe a {cls.__name__}: {error}") from error


def _pretrained(source: str | Path, revision: str | None, sha256: str | None) -> nn.Module:
    path = find_weights(source, revision, sha256)
    config = read_config(path)
    if config is None:
        raise ValueError(f"{str(source)!r} has no config.json: {_BUILD_IT}.")
    return fill(build(config.get("net")), read_weights(path), str(path))


def short_name(class_path: Any) -> str:
    """The name alone, for a class of this package; any other path as it is."""
    package, _, name = str(class_path).rpartition(".")
    return name if f"{package}.".startswith(f"{_PACKAGE}.") else str(class_path)


def net_class(class_path: Any) -> type[nn.Module] | None:
    """The class, if it is one of this package's nets: none is imported by a path that a file gives."""
    models, name = importlib.import_module(_PACKAGE), short_name(class_path)
    cls = getattr(models, name) if name in models.__all__ and name not in _NOT_BUILT else None
    return cls if inspect.isclass(cls) and issubclass(cls, nn.Module) else None


def _some(names: Iterable[str], most: int = 3) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
