"""Checks of radii and step sizes."""

import math

import torch
from torch import Tensor


def check_radius(name: str, value: float | Tensor, count: int, read: bool = True) -> float:
    """Raise unless a radius or step size is finite and >= 0.

    Args:
        name: what the value is called, for the message.
        value: one number, or one per sample [count].
        count: number of samples.
        read: whether to read a tensor's values, which on a GPU waits for the work queued there.

    Returns:
        The largest value; 0 if it is not read.

    Raises:
        TypeError: for what is neither a number nor a tensor.
        ValueError: for another shape, a negative value, NaN or infinity.

    Example:
        >>> check_radius("eps", 0.5, count=2)
        0.5
        >>> check_radius("eps", -1.0, count=2)
        Traceback (most recent call last):
        ...
        ValueError: eps must be finite and >= 0, got -1.0.
    """
    if isinstance(value, Tensor):
        if value.dim() and value.shape != (count,):
            raise ValueError(f"{name} must be one number or one per sample [{count}], got shape {tuple(value.shape)}.")
        low, high = (float(v) for v in torch.aminmax(value)) if read and value.numel() else (0.0, 0.0)
    else:
        try:
            low = high = float(value)
        except (TypeError, ValueError):
            got = f"a {type(value).__name__}"
            raise TypeError(f"{name} must be a number, a fraction such as '8/255' or a tensor, got {got}.") from None
    if not 0 <= low <= high < math.inf:  # NaN fails too
        raise ValueError(f"{name} must be finite and >= 0, got {low if low == high else f'[{low}, {high}]'}.")
    return high


def check_fits_box(norm: str, eps: float, lower: float, upper: float) -> None:
    """Raise if a radius in linf is larger than the box, as one in levels of 255 is, or one in l0 is not whole.

    Args:
        norm: the norm; in l2 and l1, larger radii have a meaning.
        eps: the radius.
        lower: least pixel value.
        upper: greatest pixel value.

    Raises:
        ValueError: if so.

    Example:
        >>> check_fits_box("linf", 8 / 255, 0.0, 1.0)
        >>> check_fits_box("linf", 8, 0.0, 1.0)
        Traceback (most recent call last):
        ...
        ValueError: An eps of 8 in linf is larger than the box [0, 1]: write '8/255' if you mean levels of 255.
    """
    if norm == "linf" and eps > (upper - lower) * (1 + 1e-6):
        raise ValueError(
            f"An eps of {eps:g} in linf is larger than the box [{lower:g}, {upper:g}]: write '{eps:g}/255' if you mean "
            "levels of 255."
        )
    if norm == "l0" and eps != round(eps):
        raise ValueError(f"In l0 the radius is how many values may change, a whole number; got {eps:g}.")
