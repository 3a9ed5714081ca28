"""Nets by name on the command line and in YAML: `--model.net timm:resnet18`, `net: timm:resnet18`."""

import json
from collections.abc import Sequence
from typing import Any

from lightning_robust.models.by_name import describe_name, is_net_name


def words_with_nets(words: Sequence[str]) -> list[str]:
    """Replace a net's name after an option such as `--model.net` by its class and arguments.

    Args:
        words: the words of a command line.

    Raises:
        ValueError: for a name of another form.

    Example:
        >>> words_with_nets(["fit", "--model.net", "timm:vgg11", "--trainer.max_epochs=7"])
        ['fit', '--model.net={"class_path": "TimmModel", "init_args": {"name": "vgg11"}}', '--trainer.max_epochs=7']
    """
    found, left = [], list(words)
    while left:
        option, equals, value = left.pop(0).partition("=")
        if option in ("--net", "--surrogate") or (option.startswith("--") and option.endswith((".net", ".teacher"))):
            if not equals and left and is_net_name(left[0]):
                equals, value = "=", left.pop(0)
            if equals and is_net_name(value):
                value = json.dumps(describe_name(value))
        found.append(f"{option}{equals}{value}")
    return found


def with_nets(settings: Any) -> Any:
    """Replace the names of nets in settings, wherever they stand under a key for a net, by classes and arguments.

    Args:
        settings: what a YAML text holds.

    Raises:
        ValueError: for a name of another form.

    Example:
        >>> with_nets({"model": {"class_path": "AT", "init_args": {"net": "timm:resnet18"}}})["model"]["init_args"]
        {'net': {'class_path': 'TimmModel', 'init_args': {'name': 'resnet18'}}}
    """
    if isinstance(settings, list):
        return [with_nets(value) for value in settings]
    if not isinstance(settings, dict):
        return settings
    return {
        key: describe_name(value) if key in ("net", "surrogate", "teacher") and is_net_name(value) else with_nets(value)
        for key, value in settings.items()
    }
