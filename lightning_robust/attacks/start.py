"""The points at which gradient attacks start."""

from typing import Literal, TypeAlias, get_args

from torch import Tensor

from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from lightning_robust.types import Radius

Start: TypeAlias = Literal["uniform", "normal", "none"]
"""Uniform in the ball; normal around the clean image, as TRADES and its family; or the clean image itself."""

NORMAL_SCALE = 0.001
"""Standard deviation of the normal start, in pixels (yaodongyu/TRADES@6e8e11b, trades.py)."""


def check_start(start: str) -> None:
    """Raise for an unknown start.

    Raises:
        ValueError: naming the ones there are.
    """
    if start not in get_args(Start):
        raise ValueError(f"Unknown start {start!r}: choose one of {', '.join(get_args(Start))}.")


def starting_point(x: Tensor, threat: Threat, start: Start, eps: Radius | None, rng: SampleRNG) -> Tensor:
    """Return the points [b c h w] at which an attack on the clean images x starts.

    Args:
        x: clean images [b c h w].
        threat: the perturbations allowed.
        start: "uniform", "normal" or "none".
        eps: radius instead of the threat's, one number or one per sample [b].
        rng: random numbers of each sample.
    """
    if start == "uniform":
        return threat.random(x, rng, eps)
    if start == "normal":
        return threat.project(x + NORMAL_SCALE * rng.normal(x), x, eps)
    return x.clone()
