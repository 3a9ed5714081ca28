"""Penalties added to a defense's loss."""

from abc import ABC, abstractmethod

from torch import Tensor

from lightning_robust.types import Batch, Net, Views


class Regularizer(ABC):
    """A penalty per sample, computed after the method's own forward passes."""

    name: str
    """What its part is called in the log."""

    @abstractmethod
    def __call__(self, net: Net, batch: Batch, views: Views, epoch: int) -> Tensor:
        """The weighted penalty [b] of each sample; epochs count from 0."""
