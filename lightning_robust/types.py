"""The values that travel through a training step, and the callables that act on them."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

Net: TypeAlias = Callable[[Tensor], Tensor]
"""Images [b c h w] in [0, 1] to logits [b k]; an `nn.Module` or any callable."""

Objective: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(logits [b k], target) to a per-sample value [b] that an attack ascends."""

Radius: TypeAlias = float | Tensor
"""One number for the whole batch, or one per sample [b]."""


class Batch(NamedTuple):
    """What a data loader gives: images `x` [b c h w] in [0, 1], labels `y` [b], dataset positions `index` [b]."""

    x: Tensor
    y: Tensor
    index: Tensor | None = None  # type: ignore[assignment]  # shadows tuple.index, which nobody needs here


class Views(NamedTuple):
    """What a defense trains on: adversarial examples and, for methods that use them, collaborative ones."""

    adv: Tensor
    col: Tensor | None = None


class Losses(NamedTuple):
    """A method's loss per sample: `total` [b], its named `parts` [b] for the log, logits of the adversarial view."""

    total: Tensor
    parts: dict[str, Tensor]
    logits_adv: Tensor


def as_batch(batch: Any) -> Batch:
    """Read `(x, y)`, `(x, y, index)` or a `Batch`.

    Raises:
        TypeError: for anything else, naming what came.
    """
    if isinstance(batch, Batch):
        return batch
    if isinstance(batch, (tuple, list)) and len(batch) in (2, 3) and all(isinstance(part, Tensor) for part in batch):
        if len(batch) == 3 and (batch[2].is_floating_point() or batch[2].shape != batch[1].shape[:1]):
            raise TypeError(
                f"The third tensor of a batch must hold the samples' positions in the dataset, integers [b], got "
                f"{batch[2].dtype} of shape {tuple(batch[2].shape)}."
            )
        return Batch(*batch)
    got = f"a {type(batch).__name__}"
    if isinstance(batch, (tuple, list)):
        got += f" of {', '.join(type(part).__name__ for part in batch)}"
    raise TypeError(f"A batch must be the tensors (x, y) or (x, y, index), or a Batch; got {got}.")


def to_float(value: float | str) -> float:
    """Read a number, or a fraction such as `"8/255"` as papers write radii.

    Raises:
        ValueError: if the text is neither.
    """
    if not isinstance(value, str):
        return float(value)
    numerator, slash, denominator = value.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{value!r} is neither a number nor a fraction such as '8/255'.") from None
