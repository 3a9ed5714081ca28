"""Conversion between stored bytes and float tensors in [0, 1]."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from lightning_robust.types import Batch


def to_byte_tensor(image: Any) -> Tensor:
    """Convert an image [h w] or [h w c], an array or a PIL image, to a tensor [c h w] of its type: uint8 for bytes.

    Example:
        >>> to_byte_tensor(np.zeros((4, 5, 3), dtype=np.uint8)).shape
        torch.Size([3, 4, 5])
    """
    x = torch.from_numpy(np.array(image))
    return x.unsqueeze(0) if x.dim() == 2 else x.movedim(-1, 0)


def to_float_tensor(image: Any) -> Tensor:
    """Convert an image [h w] or [h w c], an array or a PIL image, to a float32 tensor [c h w] in [0, 1].

    Bytes are divided by 255; floats are in [0, 1] already.

    Example:
        >>> to_float_tensor(np.full((1, 2), 255, dtype=np.uint8))
        tensor([[[1., 1.]]])
    """
    return bytes_to_float(to_byte_tensor(image))


def bytes_to_float(x: Tensor) -> Tensor:
    """Convert bytes to float32 in [0, 1], with the same result on every device; floats are in [0, 1] already.

    Example:
        >>> bytes_to_float(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([0., 1.])
    """
    if x.is_floating_point():
        return x.float()
    # divided by a tensor: CUDA multiplies with the rounded inverse of a Python number
    return x.float().div_(torch.full((), 255.0, device=x.device))


def as_exact_bytes(x: Tensor) -> Tensor | None:
    """Convert floats in [0, 1] to the bytes that `bytes_to_float` makes them of; None if there are no such bytes.

    Example:
        >>> as_exact_bytes(torch.tensor([0.0, 1.0])), as_exact_bytes(torch.tensor([0.5]))
        (tensor([  0, 255], dtype=torch.uint8), None)
    """
    as_bytes = (x * 255).round_().to(torch.uint8)
    return as_bytes if torch.equal(bytes_to_float(as_bytes), x) else None


def collate_as_bytes(samples: list[Any]) -> Batch:
    """Collate samples into a batch whose images are bytes, a quarter of the volume of float32.

    Args:
        samples: (x, y, position) each, with an image x [c h w] in [0, 1].

    Returns:
        The batch, whose images are bytes [b c h w].

    Raises:
        ValueError: for images that are no multiples of 1/255, which bytes cannot hold.

    Example:
        >>> collate_as_bytes([(torch.ones(1, 1, 2), 3, 0)]).x
        tensor([[[[255, 255]]]], dtype=torch.uint8)
    """
    x, *rest = default_collate(samples)
    as_bytes = as_exact_bytes(x)
    if as_bytes is None:
        raise ValueError("Bytes cannot hold images that are no multiples of 1/255: leave uint8_transfer out.")
    return Batch(as_bytes, *rest)
