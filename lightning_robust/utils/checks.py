"""Bad input is refused with one sentence that says what came and what to do."""

import hashlib
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def check_images(x: Tensor, lower: float = 0.0, upper: float = 1.0) -> None:
    """Images must be floating-point, free of NaN and inside [lower, upper].

    Raises:
        TypeError: for integer images.
        ValueError: for NaN, or values outside the box (the message says the range found).
    """
    if not x.is_floating_point():
        raise TypeError(
            f"Images must be floating-point in [{lower:g}, {upper:g}], got {x.dtype}: "
            "convert them, e.g. with torchvision's ToDtype(torch.float32, scale=True)."
        )
    if not x.numel():
        raise ValueError(f"The batch holds no images (shape {tuple(x.shape)}).")
    low, high = (float(v) for v in torch.aminmax(x.detach()))
    if low != low:  # NaN
        raise ValueError("Images contain NaN: look for a division by zero in the transforms.")
    if low < lower - 1e-6 or high > upper + 1e-6:
        raise ValueError(
            f"Images must lie in [{lower:g}, {upper:g}] but range over [{low:.4g}, {high:.4g}]: leave normalisation "
            "to the net (lightning_robust.models.Normalize as its first layer) and divide bytes by 255."
        )


def check_labels(y: Tensor, num_classes: int | None = None, count: int | None = None) -> None:
    """Labels must be integers in [0, num_classes), one for each of `count` images.

    Raises:
        TypeError: for labels that are not integers.
        ValueError: for labels out of range, or another number of them.
    """
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool or y.dim() != 1:
        raise TypeError(f"Labels must be class numbers [b] of integer type, got {y.dtype} of shape {tuple(y.shape)}.")
    if count is not None and len(y) != count:
        raise ValueError(f"There must be one label for each image, but there are {len(y)} for {count} images.")
    low, high = (int(v) for v in torch.aminmax(y))
    if low < 0 or (num_classes is not None and high >= num_classes):
        bound = "" if num_classes is None else f" and below the net's {num_classes} outputs"
        raise ValueError(f"Labels must be at least 0{bound}, but range over [{low}, {high}].")


def check_logits(logits: Any, y: Tensor, num_classes: int | None = None) -> None:
    """The net's output must be logits [b k] with one column a class.

    Warns:
        UserWarning: if the rows look like probabilities.

    Raises:
        TypeError: for outputs that are not one tensor.
        ValueError: for another shape or width, NaN, or labels the width cannot hold.
    """
    if not isinstance(logits, Tensor):
        raise TypeError(f"The net must give one tensor of logits [b k], got a {type(logits).__name__}: wrap it.")
    if logits.dim() != 2 or len(logits) != len(y):
        raise ValueError(f"The net must give logits [b k] for {len(y)} images, got shape {tuple(logits.shape)}.")
    k = logits.shape[1]
    if num_classes is not None and k != num_classes:
        raise ValueError(f"The net gives {k} logits but the data has {num_classes} classes: set the net's width to it.")
    check_labels(y, k)
    if not torch.isfinite(logits).all():
        raise ValueError("The net's logits are not finite on clean images: look at its weights and its input scale.")
    warn_of_probabilities(logits)


def check_attacked_logits(logits: Tensor, n: int, y: Tensor | None) -> None:
    """The logits that an attack meets first must be [n k], wide enough for its labels, and no NaN or +inf.

    Warns:
        UserWarning: if the rows look like probabilities.

    Raises:
        ValueError: for another shape, NaN, +inf, or labels the width cannot hold.
    """
    if logits.dim() != 2 or len(logits) != n:
        raise ValueError(f"The net must give logits [b k] for {n} images, got shape {tuple(logits.shape)}.")
    if y is not None:
        check_labels(y, logits.shape[1])
    if (logits.isnan() | logits.isposinf()).any():
        raise ValueError("The net's logits hold NaN or +inf: look at its weights and its input scale.")
    warn_of_probabilities(logits)


def warn_of_probabilities(logits: Tensor) -> None:
    """Warn if the rows of logits [b k] look like probabilities: non-negative, summing to 1."""
    sums = logits.sum(1)
    if logits.shape[1] > 1 and (logits >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        warnings.warn(
            "The net's outputs look like probabilities (non-negative, summing to 1). Losses and attacks expect logits: "
            "remove the softmax, or robustness will be overestimated.",
            stacklevel=3,
        )


def check_radius(name: str, value: float | Tensor, count: int) -> None:
    """A radius or step must be finite and >= 0: one number, or one for each of `count` samples.

    Raises:
        ValueError: naming what came.
    """
    if isinstance(value, Tensor):
        if value.dim() and value.shape != (count,):
            raise ValueError(f"{name} must be one number or one per sample [{count}], got shape {tuple(value.shape)}.")
        low, high = (float(v) for v in torch.aminmax(value)) if value.numel() else (0.0, 0.0)
    else:
        low = high = value
    if not 0 <= low <= high < math.inf:  # NaN fails too
        raise ValueError(f"{name} must be finite and >= 0, got {low if low == high else f'[{low}, {high}]'}.")


def reading_is_free(x: Tensor) -> bool:
    """Whether values of x can be looked at without waiting for a device's queue."""
    return x.device.type == "cpu"


def check_examples(x_adv: Tensor, name: str, lower: float = 0.0, upper: float = 1.0) -> None:
    """What an attack returns must be finite and inside the box.

    Raises:
        ValueError: naming the attack and the range found.
    """
    low, high = (float(v) for v in torch.aminmax(x_adv))
    if not (lower - 1e-6 <= low and high <= upper + 1e-6):
        raise ValueError(
            f"Attack {name!r} left its threat model: examples range over [{low:.4g}, {high:.4g}] in the box "
            f"[{lower:g}, {upper:g}]. Its accuracy means nothing; mend it."
        )


def check_precision(precision: str) -> None:
    """Images must not be stored in half precision.

    Raises:
        ValueError: for a precision that does.
    """
    if precision in ("16-true", "bf16-true", "transformer-engine", "transformer-engine-float16"):
        raise ValueError(
            f"precision {precision!r} stores images in half precision, where a radius of 8/255 is rounded away: use "
            "'16-mixed' or 'bf16-mixed'."
        )


def file_sha256(path: str | Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def check_sha256(path: str | Path, expected: str) -> None:
    """A file must be the one that was meant, to the last byte.

    Raises:
        ValueError: for another file, a changed or a truncated one.
    """
    found = file_sha256(path)
    if found != expected.lower():
        raise ValueError(
            f"{path} has the SHA-256 {found}, not {expected}: it is truncated, changed or another file. Fetch it again "
            "and do not use this one."
        )
