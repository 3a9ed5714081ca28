"""Convolutions of residual nets, and the two ways in which those of stride 2 pad."""

from typing import Literal, TypeAlias, get_args

import torch.nn.functional as F
from torch import Tensor, nn

Padding: TypeAlias = Literal["both", "same"]
"""How 3x3 convolutions of stride 2 pad: one pixel on both sides, or as TensorFlow's and JAX's SAME (`SamePadding`)."""


class SamePadding(nn.Conv2d):
    """3x3 convolution of stride 2 without bias that pads as TensorFlow's and JAX's SAME does.

    An even height or width is padded by one pixel at its end (the bottom, the right), an odd one on both sides.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.

    Example:
        >>> import torch
        >>> SamePadding(1, 1)(torch.rand(1, 1, 8, 5)).shape
        torch.Size([1, 1, 4, 3])
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output [b c_out h/2 w/2], rounded up, for an input [b c_in h w]."""
        h, w = x.shape[-2:]
        return super().forward(F.pad(x, (w % 2, 1, h % 2, 1)))


def conv(c_in: int, c_out: int, size: int, stride: int = 1, padding: Padding = "both") -> nn.Conv2d:
    """Return a convolution without bias that keeps height and width, or halves them by stride 2.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        size: height and width of the kernel: 1 or 3.
        stride: 1 or 2.
        padding: how a 3x3 convolution of stride 2 pads (see `Padding`).

    Raises:
        ValueError: for an unknown padding.
    """
    if padding not in get_args(Padding):
        raise ValueError(f"Unknown padding {padding!r}: choose one of {', '.join(get_args(Padding))}.")
    if padding == "same" and (size, stride) == (3, 2):
        return SamePadding(c_in, c_out)
    return nn.Conv2d(c_in, c_out, size, stride=stride, padding=size // 2, bias=False)
