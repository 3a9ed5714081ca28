"""Checks that refuse bad input with one sentence: what came, and what to do about it."""

import hashlib
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_robust.utils.logits_shape import check_logits_shape


def check_images(x: Tensor, lower: float = 0.0, upper: float = 1.0) -> None:
    """Raise unless the images are float32 or float64, finite and inside [lower, upper].

    Values outside by up to 1e-6 pass as rounding.

    Args:
        x: images [b c h w].
        lower: smallest allowed pixel value.
        upper: largest allowed pixel value.

    Raises:
        TypeError: for images of another type.
        ValueError: for an empty batch, NaN, inf, or values outside the range (the message gives the range found).

    Example:
        >>> import torch
        >>> check_images(torch.rand(2, 3, 8, 8))
        >>> check_images(torch.tensor([0.0, 255.0]))
        Traceback (most recent call last):
        ...
        ValueError: Images must lie in [0, 1] but range over [0, 255]: leave normalisation ...
    """
    check_image_type(x, lower, upper)
    if not x.numel():
        raise ValueError(f"The batch holds no images (shape {tuple(x.shape)}).")
    low, high = (float(v) for v in torch.aminmax(x.detach()))
    if low != low:  # NaN
        raise ValueError("Images contain NaN: look for a division by zero in the transforms.")
    if low < lower - 1e-6 or high > upper + 1e-6 or math.isinf(low) or math.isinf(high):
        raise ValueError(
            f"Images must lie in [{lower:g}, {upper:g}] but range over [{low:.4g}, {high:.4g}]: leave normalisation "
            "to the net (lightning_robust.models.Normalize as its first layer) and divide bytes by 255."
        )


def check_image_type(x: Tensor, lower: float = 0.0, upper: float = 1.0) -> None:
    """Raise unless the images are a tensor of float32 or float64, without reading a value.

    Args:
        x: images [b c h w].
        lower: smallest allowed pixel value, for the message.
        upper: largest allowed pixel value, for the message.

    Raises:
        TypeError: for anything else.

    Example:
        >>> import torch
        >>> check_image_type(torch.zeros(2, 3, dtype=torch.bfloat16))
        Traceback (most recent call last):
        ...
        TypeError: Images in torch.bfloat16 round a radius of 8/255 away: give them in float32, ...
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"Images must be a torch.Tensor, got a {type(x).__name__}: convert it with torch.as_tensor.")
    if not x.is_floating_point():
        raise TypeError(
            f"Images must be floating-point in [{lower:g}, {upper:g}], got {x.dtype}: "
            "convert them, e.g. with torchvision's ToDtype(torch.float32, scale=True)."
        )
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"Images in {x.dtype} round a radius of 8/255 away: give them in float32, and run the net in half "
            "precision under torch.autocast."
        )


def check_labels(y: Tensor, num_classes: int | None = None, count: int | None = None) -> None:
    """Raise unless the labels are integers [b] in [0, num_classes).

    Args:
        y: labels [b].
        num_classes: number of classes; None checks the lower bound only.
        count: number of images; None does not check it.

    Raises:
        TypeError: for labels of another type or shape.
        ValueError: for labels out of range, or another number of them.

    Example:
        >>> import torch
        >>> check_labels(torch.tensor([0, 3]), num_classes=3)
        Traceback (most recent call last):
        ...
        ValueError: Labels must be at least 0 and below the net's 3 outputs, but range over [0, 3].
    """
    check_label_type(y, count)
    low, high = (int(v) for v in torch.aminmax(y.long()))  # which is not implemented for every type
    if low < 0 or (num_classes is not None and high >= num_classes):
        bound = "" if num_classes is None else f" and below the net's {num_classes} outputs"
        raise ValueError(f"Labels must be at least 0{bound}, but range over [{low}, {high}].")


def check_label_type(y: Tensor, count: int | None = None) -> None:
    """Raise unless the labels are a tensor of integers [b], without reading a value.

    Args:
        y: labels [b].
        count: number of images; None does not check it.

    Raises:
        TypeError: for labels of another type or shape.
        ValueError: for another number of them.

    Example:
        >>> import torch
        >>> check_label_type(torch.eye(3))
        Traceback (most recent call last):
        ...
        TypeError: Labels must be class numbers [b] of integer type, got torch.float32 of shape (3, 3): give ...
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"Labels must be a torch.Tensor, got a {type(y).__name__}: convert it with torch.as_tensor.")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool or y.dim() != 1:
        one_hot = y.dim() == 2 and y.shape[1] > 1
        raise TypeError(
            f"Labels must be class numbers [b] of integer type, got {y.dtype} of shape {tuple(y.shape)}: "
            f"give {'y.argmax(1) of one-hot labels' if one_hot else 'y.flatten().long()'}."
        )
    if count is not None and len(y) != count:
        raise ValueError(f"There must be one label for each image, but there are {len(y)} for {count} images.")


def check_logits(logits: Any, y: Tensor, num_classes: int | None = None) -> None:
    """Raise unless a net's output is one tensor of logits [b k], and warn if it looks like probabilities.

    A logit of -inf is that of a masked class.

    Args:
        logits: what the net returned.
        y: labels [b] of the same samples.
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
        y: their labels [n], if the attack has labels.

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
    """Raise if a radius in linf is larger than the box, as one in levels of 255 is.

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


def reading_is_free(x: Tensor) -> bool:
    """Return whether values of x can be read without waiting for the device to finish its queue."""
    return x.device.type == "cpu"


def check_examples(x_adv: Tensor, name: str, lower: float = 0.0, upper: float = 1.0) -> None:
    """Raise unless an attack's examples are finite and inside [lower, upper].

    Values outside by up to 1e-6 pass as rounding.

    Args:
        x_adv: adversarial examples [b c h w].
        name: the attack's name, for the message.
        lower: smallest allowed pixel value.
        upper: largest allowed pixel value.

    Raises:
        ValueError: naming the attack and the range found.

    Example:
        >>> import torch
        >>> check_examples(torch.tensor([-0.1, 1.0]), "mine")
        Traceback (most recent call last):
        ...
        ValueError: Attack 'mine' left its threat model: examples range over [-0.1, 1] in the box [0, 1]. ...
    """
    low, high = (float(v) for v in torch.aminmax(x_adv))
    if not (lower - 1e-6 <= low and high <= upper + 1e-6):
        raise ValueError(
            f"Attack {name!r} left its threat model: examples range over [{low:.4g}, {high:.4g}] in the box "
            f"[{lower:g}, {upper:g}]. Its accuracy means nothing; mend it."
        )


def check_precision(precision: str) -> None:
    """Raise if a Lightning precision stores images in half precision.

    Args:
        precision: Lightning's name of it, such as "bf16-mixed".

    Raises:
        ValueError: for "16-true", "bf16-true" and Transformer Engine, which round a radius of 8/255 away.

    Example:
        >>> check_precision("bf16-mixed")
        >>> check_precision("bf16-true")
        Traceback (most recent call last):
        ...
        ValueError: precision 'bf16-true' stores images in half precision, where a radius of 8/255 is rounded away: ...
    """
    if precision in ("16-true", "bf16-true", "transformer-engine", "transformer-engine-float16"):
        raise ValueError(
            f"precision {precision!r} stores images in half precision, where a radius of 8/255 is rounded away: use "
            "'16-mixed' or 'bf16-mixed'."
        )


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "empty")
        >>> path.touch()
        >>> file_sha256(path)[:16]
        'e3b0c44298fc1c14'
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def check_sha256(path: str | Path, expected: str) -> None:
    """Raise unless a file has the expected SHA-256.

    Args:
        path: the file.
        expected: its SHA-256 in hexadecimal, in upper or lower case.

    Raises:
        ValueError: for another file, or one that was changed or truncated.
    """
    found = file_sha256(path)
    if found != expected.lower():
        raise ValueError(
            f"{path} has the SHA-256 {found}, not {expected}: it is truncated, changed or another file. Fetch it again "
            "and do not use this one."
        )
