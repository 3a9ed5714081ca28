"""Padding of small batches, so that a sample's logits do not depend on the batch it is in."""

import torch
from torch import Tensor, nn

from lightning_robust.runtime.outputs import logits_of
from lightning_robust.types import Net


class PadSmallBatches(nn.Module):
    """Pads batches of fewer than 16 images with copies of their first one before the net sees them.

    Matrix products of a few rows take other routines, which round differently, and an iterated attack magnifies the
    last bit into another verdict. From 16 rows on, a sample's logits and gradients were found to be the same to the bit
    whatever its batch: on one thread in small convolutional nets, ResNet-18 and dense layers up to 784 x 512 (CPU,
    torch 2.14), on two threads in all but the widest dense layer, whose last bits depend on the batch at any size.

    Args:
        net: images [b c h w] to logits [b k], or to what holds them.
        most: images that fit into memory at a time; no batch is padded beyond.
    """

    LEAST = 16

    def __init__(self, net: Net, most: int | None = None) -> None:
        super().__init__()
        self.net = net
        self.least = self.LEAST if most is None else min(self.LEAST, most)

    def forward(self, x: Tensor) -> Tensor:
        """Return the net's logits [b k] of the images alone, without the padding."""
        b = len(x)
        if not 0 < b < self.least:
            return logits_of(self.net(x))
        return logits_of(self.net(torch.cat([x, x[:1].detach().expand(self.least - b, *x.shape[1:])])))[:b]
