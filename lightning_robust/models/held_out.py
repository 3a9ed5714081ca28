"""Which samples the training of a net held out, as its checkpoint or its export says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_robust.models.weight_files import find_weights, read_about, read_checkpoint

HELD_OUT = "held_out"
"""The entry of an export's `config.json`, and of the weights themselves, that holds it."""


def held_out_of(content: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the descriptions of held-out samples in a checkpoint, by the class of the data module.

    Example:
        >>> held_out_of({"epoch": 3, "ImageFolder": {"split": "2 of 18: 5bf7", "test": "2 of 20: 0c1d"}})
        {'ImageFolder': {'split': '2 of 18: 5bf7', 'test': '2 of 20: 0c1d'}}
    """
    return {str(name): dict(value) for name, value in content.items() if _is_description(value)}


def read_held_out(source: str | Path, revision: str | None = None) -> dict[str, dict[str, str]]:
    """Return what the training of these weights held out, by the class of the data module; nothing if it is not known.

    Args:
        source: a checkpoint or exported weights, as `load_weights` takes them.
        revision: branch, tag or commit on the Hub.

    Raises:
        ImportError: as for `load_weights`.
        ValueError: for files that cannot be read.
    """
    path = find_weights(source, revision)
    if path.suffix != ".safetensors":
        return held_out_of(read_checkpoint(path))
    told = read_about(path).get(HELD_OUT)
    return held_out_of(told) if isinstance(told, dict) else {}


def _is_description(value: Any) -> bool:
    """Whether it is what `RobustDataModule.state_dict` gives."""
    return (
        isinstance(value, dict)
        and len(value) > 0
        and value.keys() <= {"split", "test"}
        and all(isinstance(text, str) for text in value.values())
    )
