"""Replacing a recipe's `mean` and `std` where other data or pretrained weights are given."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_info

from lightning_robust.cli.net_from_data import WEIGHTS, has_weights
from lightning_robust.cli.strict_yaml import load
from lightning_robust.data import RobustDataModule
from lightning_robust.data.statistics import channel_statistics

_WHICH = ("root", "path", "name", "config")
"""Settings of data modules that say which data they read."""


class _Stated(NamedTuple):
    """What configuration files say of a net, with its normalisation, and of the data that stand beside it."""

    net: Mapping[str, Any]
    data: Mapping[str, Any]


def replace_statistics(net: Namespace, config: Namespace, data: RobustDataModule, files: Iterable[Any]) -> None:
    """Replace the `mean` and `std` of a recipe's net if it is trained on other data, or starts from pretrained weights.

    They stay as they are unless they stand in the file that also names the data.

    Args:
        net: the config of the net, with `class_path` and `init_args`, whose `mean` and `std` are replaced: by null, for
            the weights' own, where it starts from such, else by those of the training images.
        config: the config of the data, likewise.
        data: the data module, whose training images are read if they are others.
        files: the paths of the configuration files, in their order.
    """
    stated, net = _stated(files), _with_mean(net)
    settings = net.get("init_args")
    if stated is None or settings is None:
        return
    recipe = _section(stated.net, "init_args")
    if any(settings.get(key) != recipe.get(key) for key in ("mean", "std")):
        return
    whose = f"The recipe's mean and std are those of {_name(stated.data)}"
    others = any(key in recipe and recipe[key] != settings.get(key) for key in WEIGHTS)
    if has_weights(settings) and (others or _name(stated.net) != _name(net)):
        settings["mean"] = settings["std"] = None
        rank_zero_info(f"{whose}: the net keeps those of its weights.")
    elif _are_others(stated.data, config, data):
        mean, std = data.mean, data.std
        if mean is None or std is None:
            data.prepare_data()
            mean, std = channel_statistics(data.train_data(augment=False), most=1000)
        settings["mean"], settings["std"] = list(mean), list(std)
        rank_zero_info(
            f"{whose}: the net takes those of the training images, {settings['mean']} and {settings['std']}."
        )


def _stated(files: Iterable[Any]) -> _Stated | None:
    """Return what the last file with a net's `mean` says, if it names the data, too."""
    found: _Stated | None = None
    for file in map(str, files):
        content = load(Path(file).read_text(), file) if Path(file).is_file() else None
        data = _section(content, "data")
        net = _with_mean(_section(_section(_section(content, "model"), "init_args"), "net"))
        if _section(net, "init_args").get("mean") is not None:
            found = _Stated(net, data) if data else None
    return found


def _with_mean(net: Any) -> Any:
    """Return the config of the net, or of the one within it that normalises."""
    settings = net.get("init_args")
    inner = settings.get("net") if isinstance(settings, (Mapping, Namespace)) and "mean" not in settings else None
    return _with_mean(inner) if isinstance(inner, (Mapping, Namespace)) else net


def _section(content: Any, name: str) -> Mapping[str, Any]:
    inner = content.get(name) if isinstance(content, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def _name(section: Mapping[str, Any] | Namespace) -> str:
    return str(section.get("class_path")).rpartition(".")[2]


def _are_others(stated: Mapping[str, Any], config: Namespace, data: RobustDataModule) -> bool:
    """Whether the data are not those that a recipe names: of another class, or in another place."""
    classes = {type(part).__name__ for part in (data, getattr(data, "inner", data))}
    if _name(stated) not in classes:
        return True
    if data.mean is None:  # published data, wherever they lie
        return False
    before, now = _section(stated, "init_args"), config.get("init_args") or {}
    return any(key in before and str(before[key]) != str(now.get(key)) for key in _WHICH)
