"""Labels of samples: class numbers [b], or soft labels [b k], which give every class a probability."""

import torch
from torch import Tensor

SUM_TOLERANCE = 1e-3
"""How far the sum of a soft label may be from 1, for probabilities that were stored rounded."""


def is_soft(y: Tensor) -> bool:
    """Return whether labels are probabilities [b k], not class numbers [b].

    Example:
        >>> is_soft(torch.tensor([[0.9, 0.1]])), is_soft(torch.tensor([0]))
        (True, False)
    """
    return y.is_floating_point()


def hard_labels(y: Tensor) -> Tensor:
    """Return class numbers [b] as int64; of soft labels [b k], the most probable class.

    Args:
        y: labels, class numbers [b] of any integer type or probabilities [b k].

    Example:
        >>> hard_labels(torch.tensor([[0.1, 0.9], [0.5, 0.5]])), hard_labels(torch.tensor([1, 0]))
        (tensor([1, 0]), tensor([1, 0]))
    """
    return y.argmax(1) if is_soft(y) else y.long()


def smoothed(y: Tensor, k: int, smoothing: float, like: Tensor) -> Tensor:
    """Return soft labels [b k] that mix the labels with the uniform distribution, `(1 - s) y + s / k`.

    Args:
        y: labels, class numbers [b] or probabilities [b k].
        k: number of classes.
        smoothing: weight s of the uniform distribution, in [0, 1).
        like: a tensor whose type class numbers take as probabilities.

    Example:
        >>> smoothed(torch.tensor([1]), 2, 0.2, torch.zeros(()))
        tensor([[0.1000, 0.9000]])

    Paper: Szegedy et al. 2016 (arXiv 1512.00567), section 7.
    """
    if not is_soft(y):
        y = like.new_zeros(len(y), k).scatter_(1, y.long()[:, None], 1)
    return y * (1 - smoothing) + smoothing / k


def check_labels(y: Tensor, num_classes: int | None = None, count: int | None = None) -> None:
    """Raise unless the labels are integers [b] in [0, num_classes), or probabilities [b num_classes].

    Args:
        y: labels [b] or [b k].
        num_classes: number of classes; None checks the lower bound only.
        count: number of images; None does not check it.

    Raises:
        TypeError: for labels of another type or shape.
        ValueError: for labels out of range, rows that are no probabilities, or another number of either.

    Example:
        >>> check_labels(torch.tensor([0, 3]), num_classes=3)
        Traceback (most recent call last):
        ...
        ValueError: Labels must be at least 0 and below the net's 3 outputs, but range over [0, 3].
        >>> check_labels(torch.tensor([[0.5, 0.1]]))
        Traceback (most recent call last):
        ...
        ValueError: Soft labels [b k] must be probabilities, but they go down to 0.1 and a row sums to 0.6: apply ...
    """
    check_label_type(y, count)
    if not y.numel():
        return
    if is_soft(y):
        _check_soft(y, num_classes)
        return
    low, high = (int(v) for v in torch.aminmax(y.long()))  # which is not implemented for every type
    if low < 0 or (num_classes is not None and high >= num_classes):
        bound = "" if num_classes is None else f" and below the net's {num_classes} outputs"
        raise ValueError(f"Labels must be at least 0{bound}, but range over [{low}, {high}].")


def check_label_type(y: Tensor, count: int | None = None) -> None:
    """Raise unless the labels are a tensor of integers [b] or of floats [b k], without reading a value.

    Args:
        y: labels [b] or [b k].
        count: number of images; None does not check it.

    Raises:
        TypeError: for labels of another type or shape.
        ValueError: for another number of them.

    Example:
        >>> check_label_type(torch.eye(3).long())
        Traceback (most recent call last):
        ...
        TypeError: Labels must be class numbers [b] of integer type or probabilities [b k] of floating-point type, ...
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"Labels must be a torch.Tensor, got a {type(y).__name__}: convert it with torch.as_tensor.")
    if is_soft(y):
        fits = y.dim() == 2 and y.shape[1] > 1
    else:
        fits = y.dim() == 1 and not y.is_complex() and y.dtype != torch.bool
    if not fits:
        one_hot = y.dim() == 2 and y.shape[1] > 1
        raise TypeError(
            "Labels must be class numbers [b] of integer type or probabilities [b k] of floating-point type, got "
            f"{y.dtype} of shape {tuple(y.shape)}: give "
            f"{'y.argmax(1) of one-hot labels' if one_hot else 'y.flatten().long()'}."
        )
    if count is not None and len(y) != count:
        raise ValueError(f"There must be one label for each image, but there are {len(y)} for {count} images.")


def _check_soft(y: Tensor, num_classes: int | None) -> None:
    if num_classes is not None and y.shape[1] != num_classes:
        raise ValueError(f"Soft labels [b k] have {y.shape[1]} columns, but the net has {num_classes} outputs.")
    low, sums = float(y.amin()), y.sum(1)
    worst = float(sums[(sums - 1).abs().argmax()])  # NaN too
    if not (low >= 0 and abs(worst - 1) <= SUM_TOLERANCE):
        raise ValueError(
            f"Soft labels [b k] must be probabilities, but they go down to {low:.4g} and a row sums to {worst:.4g}: "
            "apply a softmax to logits, or give class numbers [b] as integers."
        )
