"""Checks of a net's logits."""

import warnings
from typing import Any

import torch
from torch import Tensor

from lightning_robust.utils.labels import check_labels
from lightning_robust.utils.logits_shape import check_logits_shape


def check_logits(logits: Any, y: Tensor, num_classes: int | None = None) -> None:
    """Raise unless a net's output is one tensor of logits [b k], and warn if it looks like probabilities.

    A logit of -inf is that of a masked class.

    Args:
        logits: what the net returned.
        y: labels [b] of the same samples, or soft ones [b k].
        num_classes: number of classes k; None takes the number of columns.

    Warns:
        UserWarning: if every row is non-negative and sums to 1.

    Raises:
        TypeError: if the output is not one tensor.
        ValueError: for another shape or number of columns, NaN, +inf, or labels out of range.

    Example:
        >>> import torch
        >>> check_logits((torch.zeros(2, 10),), torch.tensor([1, 2]))
        Traceback (most recent call last):
        ...
        TypeError: The net must give one tensor of logits [b k], got a tuple: wrap it.
    """
    if not isinstance(logits, Tensor):
        raise TypeError(f"The net must give one tensor of logits [b k], got a {type(logits).__name__}: wrap it.")
    check_logits_shape(logits, len(y))
    k = logits.shape[1]
    if num_classes is not None and k != num_classes:
        raise ValueError(f"The net gives {k} logits but the data has {num_classes} classes: set the net's width to it.")
    check_labels(y, k)
    if (logits.isnan() | logits.isposinf()).any():
        raise ValueError("The net's logits are not finite on clean images: look at its weights and its input scale.")
    warn_of_probabilities(logits)


def check_no_nan(logits: Tensor, batch_idx: int) -> None:
    """Raise if logits on clean images are NaN, which would count as some class.

    Args:
        logits: the net's logits [b k].
        batch_idx: number of the batch, for the message.

    Raises:
        ValueError: naming the batch and the rows.

    Example:
        >>> import torch
        >>> check_no_nan(torch.tensor([[0.0, 1.0], [torch.nan, 1.0]]), batch_idx=5)
        Traceback (most recent call last):
        ...
        ValueError: The net's logits are NaN on 1 samples of batch 5 (rows 1): look at its weights and these images.
    """
    if rows := torch.nonzero(logits.isnan().any(1))[:, 0].tolist():
        told = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
        raise ValueError(
            f"The net's logits are NaN on {len(rows)} samples of batch {batch_idx} (rows {told}): look at its weights "
            "and these images."
        )


def check_attacked_logits(logits: Tensor, n: int, y: Tensor | None) -> None:
    """Raise unless an attack can start from these logits: [n k], and wide enough for the labels.

    Args:
        logits: the net's logits on the images to attack.
        n: number of images.
        y: their labels [n], or soft ones [n k], if the attack has labels.

    Warns:
        UserWarning: if every row is non-negative and sums to 1.

    Raises:
        ValueError: for another shape, or labels out of range.

    Example:
        >>> import torch
        >>> check_attacked_logits(torch.zeros(2, 3), n=4, y=None)
        Traceback (most recent call last):
        ...
        ValueError: The net must give logits [b k] for 4 images, got shape (2, 3).
    """
    check_logits_shape(logits, n)
    if y is not None:
        check_labels(y, logits.shape[1])
    warn_of_probabilities(logits)


def warn_of_probabilities(logits: Tensor) -> None:
    """Warn if logits look like probabilities: every row is non-negative and sums to 1.

    Args:
        logits: what the net returned [b k].

    Warns:
        UserWarning: if so.
    """
    sums = logits.sum(1)
    if logits.shape[1] > 1 and (logits >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        warnings.warn(
            "The net's outputs look like probabilities (non-negative, summing to 1). Losses and attacks expect logits: "
            "remove the softmax, or robustness will be overestimated.",
            stacklevel=3,
        )
