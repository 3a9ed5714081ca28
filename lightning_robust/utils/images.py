"""Checks of images: their type, their values, and the precision that holds them."""

import math

import torch
from torch import Tensor


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


def reading_is_free(x: Tensor) -> bool:
    """Return whether values of x can be read without waiting for the device to finish its queue."""
    return x.device.type == "cpu"
