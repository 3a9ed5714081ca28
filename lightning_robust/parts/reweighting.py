"""Weights that decide how much each sample counts in a defense's loss."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_robust.losses import probability_margin
from lightning_robust.types import Watch


class Reweighting(ABC):
    """Base class of sample weights, computed from the net's logits on the adversarial examples.

    One that also depends on the points on the attack's way to them writes `watch`.
    """

    def watch(self, y: Tensor) -> Watch | None:
        """Return what the training attack tells the logits at each of its points; by default None.

        Args:
            y: labels [b] or [b k] of the batch that is attacked.
        """
        return None

    @abstractmethod
    def __call__(self, logits_adv: Tensor, y: Tensor, epoch: int) -> Tensor:
        """Return the weight of each sample.

        Args:
            logits_adv: logits [b k] of the adversarial examples.
            y: labels [b] or [b k].
            epoch: epoch, counting from 0.

        Returns:
            Weights [b], detached.
        """


class MarginWeights(Reweighting):
    """Weights of MAIL: the closer a sample is to being misclassified, or the further beyond, the more it weighs.

    The weight is `3 sigmoid(slope (PM + bias))` with the probability margin `PM = max_{k != y} p_k - p_y`.

    Args:
        bias: shifts the margin at which a sample has half the greatest weight.
        slope: steepness, > 0.
        start_epoch: epoch, counting from 0, before which all samples weigh 1.

    Raises:
        ValueError: for a slope that is not > 0.

    Example:
        >>> weights = MarginWeights(bias=0.0, slope=10.0, start_epoch=0)
        >>> weights(torch.tensor([[0.2, 0.0], [0.0, 0.0]]), torch.tensor([0, 0]), epoch=0)
        tensor([0.8088, 1.5000])

    Paper: Liu et al. 2021 (arXiv 2106.07904), "Probabilistic margins for instance reweighting".
    Reference: QizhouWang/MAIL@8367c64; its factor 3 stands in place of the paper's normalisation over the batch.
    """

    def __init__(self, bias: float = -0.5, slope: float = 10.0, start_epoch: int = 76) -> None:
        if not slope > 0:
            raise ValueError(f"slope must be > 0, got {slope}.")
        self.bias = bias
        self.slope = slope
        self.start_epoch = start_epoch

    def __call__(self, logits_adv: Tensor, y: Tensor, epoch: int) -> Tensor:
        """Return weights [b] in (0, 3), or ones before `start_epoch`."""
        if epoch < self.start_epoch:
            return torch.ones(len(y), device=y.device)
        return 3 * torch.sigmoid(self.slope * (probability_margin(logits_adv.detach(), y) + self.bias))
