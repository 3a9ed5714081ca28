"""Weights that say how much each sample counts in a defense's loss."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_robust.losses import at_least_fp32


class Reweighting(ABC):
    """A weight per sample, from how the net does on its adversarial example."""

    @abstractmethod
    def __call__(self, logits_adv: Tensor, y: Tensor, epoch: int) -> Tensor:
        """Weights [b], detached, from adversarial logits [b k] and labels [b]; epochs count from 0."""


class MarginWeights(Reweighting):
    """MAIL's weights `3 sigmoid(slope (PM + bias))`, with the probability margin `PM = max_{k != y} p_k - p_y`.

    Args:
        bias: shifts the margin at which a sample has half the greatest weight.
        slope: steepness, > 0.
        start_epoch: epochs before this one (counting from 0) weigh all samples 1.

    Raises:
        ValueError: for a slope that is not > 0.

    Paper: Liu et al. 2021 (arXiv 2106.07904), "Probabilistic margins for instance reweighting".
    Reference: QizhouWang/MAIL@8367c64; its factor 3 stands in place of the paper's normalisation over the batch.
    """

    def __init__(self, bias: float = -0.5, slope: float = 10.0, start_epoch: int = 76) -> None:
        if not slope > 0:
            raise ValueError(f"slope must be > 0, got {slope}.")
        self.bias, self.slope, self.start_epoch = bias, slope, start_epoch

    def __call__(self, logits_adv: Tensor, y: Tensor, epoch: int) -> Tensor:
        """Weights [b] in (0, 3)."""
        if epoch < self.start_epoch:
            return torch.ones(len(y), device=y.device)
        return 3 * torch.sigmoid(self.slope * (probability_margin(logits_adv, y) + self.bias))


@torch.no_grad()
def probability_margin(logits: Tensor, y: Tensor) -> Tensor:
    """max over k != y of p_k - p_y, in [-1, 1]: positive where misclassified."""
    p = torch.softmax(at_least_fp32(logits), dim=1)
    own = p.gather(1, y[:, None])
    return (p.scatter(1, y[:, None], -1.0).amax(1, keepdim=True) - own)[:, 0]
