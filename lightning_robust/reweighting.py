"""Weights that say how much each sample counts in a defense's loss."""

from abc import ABC, abstractmethod

from torch import Tensor


class Reweighting(ABC):
    """A weight per sample, from how the net does on its adversarial example."""

    @abstractmethod
    def __call__(self, logits_adv: Tensor, y: Tensor, epoch: int) -> Tensor:
        """Weights [b], detached, from adversarial logits [b k] and labels [b]; epochs count from 0."""
