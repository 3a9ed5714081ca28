"""Adam on perturbations, for each sample by itself."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_robust.attacks.rows import Rows

_FIRST, _SECOND, _LEAST = 0.9, 0.999, 1e-8


@dataclass(kw_only=True)
class AdamRows(Rows):
    """State of an attack with Adam's running means of gradients and of their squares [b ...]; both start at 0."""

    mean: Tensor
    square: Tensor

    def direction(self, grad: Tensor, k: int) -> Tensor:
        """Return the direction of the k-th step [b ...], k counted from 1, along the gradient `grad` [b ...].

        Paper: Kingma & Ba 2015 (arXiv 1412.6980), algorithm 1, with its defaults.
        """
        self.mean = torch.lerp(self.mean, grad, 1 - _FIRST)
        self.square = torch.lerp(self.square, grad.square(), 1 - _SECOND)
        return self.mean / (1 - _FIRST**k) / self.size(k)

    def size(self, k: int) -> Tensor:
        """Return what the k-th step's mean gradient was divided by [b ...]."""
        return (self.square / (1 - _SECOND**k)).sqrt() + _LEAST
