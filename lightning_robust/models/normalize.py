"""Normalisation as a layer, so that images, radii and the box stay in pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """(x - mean) / std for each channel.

    Args:
        mean: one number a channel, in pixels in [0, 1].
        std: likewise, > 0.

    Raises:
        ValueError: for different lengths or a std that is not > 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(s > 0 for s in std):
            raise ValueError(f"mean and std must be equally long and std > 0, got {list(mean)} and {list(std)}.")
        # constants, not state: checkpoints hold the weights alone
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Images [b c h w] in [0, 1] to normalised ones."""
        return (x - self.mean) / self.std


def normalized(net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Sequential:
    """`net` behind a `Normalize` layer."""
    return nn.Sequential(Normalize(mean, std), net)
