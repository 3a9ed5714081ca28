"""Adversarial perturbations of the weights, in force while the training loss is computed."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn


class WeightPerturbation(ABC):
    """Moves the weights to where the loss is worse; the defense moves them back after the backward pass."""

    @abstractmethod
    def __call__(self, net: nn.Module, loss_fn: Callable[[], Tensor], epoch: int) -> Callable[[], None]:
        """Perturb `net` in place against `loss_fn() -> [b]`; returns the call that restores it exactly."""
