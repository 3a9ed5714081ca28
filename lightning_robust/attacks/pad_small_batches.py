"""Small batches padded, so that a sample's logits do not depend on the batch it is in."""

import torch
from torch import Tensor, nn

from lightning_robust.types import Net


class PadSmallBatches(nn.Module):
    """A net that sees at least 8 images at a time: smaller batches are filled up with copies of their first one.

    For a few rows matrix products take other routines, which round otherwise; with more, a sample's logits and
    gradients were found to be the same to the bit whatever its batch (CPU, torch 2.15, convolutional nets and MLPs).
    An iterated attack magnifies a last bit into another verdict.
    """

    LEAST = 8

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """The net's logits."""
        b = len(x)
        if not 0 < b < self.LEAST:
            return self.net(x)
        return self.net(torch.cat([x, x[:1].detach().expand(self.LEAST - b, *x.shape[1:])]))[:b]
