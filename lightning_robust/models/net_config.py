"""Building a net from the description in an export's `config.json`, which may be untrusted."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

_PACKAGE = "lightning_robust.models"
_NOT_ALLOWED = ("Normalize", "Pretrained")  # no classification net, and one that loads other weights
_WEIGHT_SETTINGS = ("cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "weights")
BUILD_IT_YOURSELF = "build the net yourself and use load_weights(net, source), or give it to Pretrained as `net`"
"""What an error about a description advises."""


def build_net(config: Any) -> nn.Module:
    """Build the net that `{class_path, init_args}` describes, without its trained weights.

    Only nets of `lightning_robust.models` are built, and nothing is imported, run or downloaded for the description.

    Args:
        config: a mapping with the class's name, or its full path, and the arguments of its constructor.

    Raises:
        ImportError: without timm, for one of its nets.
        ValueError: for any other class, settings that would load other weights, or settings that the class refuses.

    Example:
        >>> net = build_net({"class_path": "SmallConvNet", "init_args": {"width": 8}})
        >>> net.head
        Linear(in_features=32, out_features=10, bias=True)
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("init_args", {}), Mapping):
        raise ValueError(f"The export's config.json describes no net: {BUILD_IT_YOURSELF}.")
    cls = net_class(config.get("class_path"))
    settings = dict(config.get("init_args", {}))
    if cls is None:
        raise ValueError(
            f"The export's config.json asks for {config.get('class_path')!r}, which is no net of {_PACKAGE}: nothing "
            f"else is built from a file; {BUILD_IT_YOURSELF}."
        )
    parts = [part for part in (settings, settings.get("options")) if isinstance(part, Mapping)]
    refused = [name for part in parts for name in _WEIGHT_SETTINGS if part.get(name)]
    if cls.__name__ in ("HuggingFaceModel", "RobustBenchModel") and "pretrained" not in settings:  # true if left out
        refused.append("pretrained")
    if refused:
        raise ValueError(f"The export's config.json asks for other weights ({', '.join(refused)}): refused.")
    if cls.__name__ == "HuggingFaceModel" and "model_type" not in (settings.get("config") or {}):
        raise ValueError(
            "The export's config.json does not hold the net's configuration, and none is fetched: refused."
        )
    if isinstance(settings.get("net"), Mapping):  # a net around another
        settings["net"] = build_net(settings["net"])
    try:
        return cls(**settings)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"The export's config.json does not describe a {cls.__name__}: {error}") from error


def short_name(class_path: Any) -> str:
    """Return the class's name alone if the path lies in `lightning_robust.models`, otherwise the path as it is.

    Example:
        >>> short_name("lightning_robust.models.small.SmallConvNet"), short_name("mine.Net")
        ('SmallConvNet', 'mine.Net')
    """
    package, _, name = str(class_path).rpartition(".")
    return name if f"{package}.".startswith(f"{_PACKAGE}.") else str(class_path)


def net_class(class_path: Any) -> type[nn.Module] | None:
    """Return the class of a path if it is a net that `build_net` may build, otherwise None.

    The class is looked up among the public names of `lightning_robust.models`; the path itself is never imported.
    """
    models = importlib.import_module(_PACKAGE)
    name = short_name(class_path)
    cls = getattr(models, name) if name in models.__all__ and name not in _NOT_ALLOWED else None
    return cls if inspect.isclass(cls) and issubclass(cls, nn.Module) else None
