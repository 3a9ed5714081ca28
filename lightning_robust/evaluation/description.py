"""Attacks as plain data: their classes and settings."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lightning_robust.attacks.base import Attack
from lightning_robust.threat import Threat


def describe(attack: Attack) -> dict[str, Any]:
    """Describe an attack by its class and settings as plain data, attacks within it included.

    Example:
        >>> from lightning_robust.attacks import PGD
        >>> describe(PGD(Threat("l2", 0.5), steps=20))["steps"]
        20
    """
    return {"class": type(attack).__name__, **{k: _plain(v) for k, v in vars(attack).items() if not k.startswith("_")}}


def _plain(value: Any) -> Any:
    """Turn a value into what JSON can hold; a net becomes its class and a digest of its weights."""
    if isinstance(value, Attack):
        return describe(value)
    if isinstance(value, Threat):
        return vars(value)
    if isinstance(value, nn.Module):
        digest = hashlib.sha256()
        for tensor in value.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return f"{type(value).__name__} {digest.hexdigest()[:12]}"
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, "__qualname__", type(value).__name__)
