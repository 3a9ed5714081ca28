"""The values that travel through a training step, and the types of the functions that act on them."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from torch import Tensor

Net: TypeAlias = Callable[[Tensor], Tensor]
"""A net: images [b c h w] in [0, 1] to logits [b k]; an `nn.Module` or any other callable."""

Objective: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""A function that an attack maximises: (logits [b k], target) to one value per sample [b]."""

Watch: TypeAlias = Callable[[Tensor], None]
"""A function that is told the logits [b k] of each point at which an attack takes a gradient."""

Radius: TypeAlias = float | Tensor
"""A radius: one number for the whole batch, or one per sample [b]."""


class Batch(NamedTuple):
    """A batch of a data loader.

    Args:
        x: images [b c h w] in [0, 1].
        y: labels [b], or soft labels [b k] that give every class a probability.
        index: positions of the samples in the dataset [b], if they are known.
    """

    x: Tensor
    y: Tensor
    index: Tensor | None = None  # type: ignore[assignment]  # shadows tuple.index, which nobody needs here


class Views(NamedTuple):
    """The perturbed images that a defense trains on.

    Args:
        adv: adversarial examples [b c h w].
        col: collaborative examples [b c h w], for methods that use them.
        more: further images [b c h w], or values of each sample [b ...], by name, for methods that need them.

    Example:
        >>> import torch
        >>> x = torch.rand(2, 1, 4, 4)
        >>> Views(x, more={"interpolated": (x + x.flip(0)) / 2}).more["interpolated"].shape
        torch.Size([2, 1, 4, 4])
    """

    adv: Tensor
    col: Tensor | None = None
    more: Mapping[str, Tensor] = MappingProxyType({})


class Losses(NamedTuple):
    """The training loss of a defense, per sample.

    Args:
        total: the loss [b].
        parts: the parts of it that are logged [b each], by name.
        logits_adv: logits of the adversarial examples [b k].
    """

    total: Tensor
    parts: dict[str, Tensor]
    logits_adv: Tensor


def to_float(value: float | str) -> float:
    """Convert a number, or a fraction such as "8/255", as papers write radii, to a float.

    Args:
        value: the number, or its text.

    Raises:
        ValueError: if the text is neither a number nor a fraction.

    Example:
        >>> to_float("51/255"), to_float(0.5)
        (0.2, 0.5)
    """
    if not isinstance(value, str):
        return float(value)
    numerator, slash, denominator = value.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{value!r} is neither a number nor a fraction such as '8/255'.") from None
