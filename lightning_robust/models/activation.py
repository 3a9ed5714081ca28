"""Activation layers that nets choose by name."""

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias

from torch import nn

Activation: TypeAlias = Literal["relu", "silu", "softplus", "leaky_relu"]
"""Name of an activation; "leaky_relu" has slope 0.1 below zero."""

_LAYERS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "leaky_relu": partial(nn.LeakyReLU, 0.1),
}


def activation_layer(name: str) -> nn.Module:
    """Return a new activation layer, never in place.

    Args:
        name: "relu", "silu", "softplus" or "leaky_relu".

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> activation_layer("leaky_relu")
        LeakyReLU(negative_slope=0.1)
    """
    if name not in _LAYERS:
        raise ValueError(f"Unknown activation {name!r}: choose one of {', '.join(_LAYERS)}.")
    return _LAYERS[name]()
