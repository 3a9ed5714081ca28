"""Activations that nets choose by name."""

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias

from torch import nn

Activation: TypeAlias = Literal["relu", "silu", "softplus", "leaky_relu"]
"""Name of an activation; `leaky_relu` has slope 0.1 below zero."""

_MADE: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "leaky_relu": partial(nn.LeakyReLU, 0.1),
}


def activation_layer(name: str) -> nn.Module:
    """The layer of that name; never in place.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in _MADE:
        raise ValueError(f"Unknown activation {name!r}: choose one of {', '.join(_MADE)}.")
    return _MADE[name]()
