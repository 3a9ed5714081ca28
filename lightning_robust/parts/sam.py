"""Sharpness-aware minimization (SAM), which moves all parameters along the gradient by one distance."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_robust.parts.weight_arithmetic import joint_norm, safe_ratio
from lightning_robust.parts.weight_perturbation import WeightPerturbation


class SAM(WeightPerturbation):
    """Sharpness-aware minimization: the gradient is taken at `w + rho g / ||g||`, with the norm over all parameters.

    The loss is the defense's own, at its examples: with `Standard`, it is the method of the paper. Biases and batch
    norms move too, and rho is an absolute distance, where AWP's gamma is relative to the weights.

    Args:
        rho: distance that the parameters move, >= 0.
        start_epoch: epoch, counting from 0, before which the parameters are not perturbed.
        restore: when they are restored, see `WeightPerturbation`; the authors do so before the step.

    Raises:
        ValueError: for a negative rho.

    Example:
        >>> from lightning_robust.losses import cross_entropy
        >>> net = nn.Linear(2, 2, bias=False)
        >>> x, y, before = torch.rand(4, 2), torch.tensor([0, 1, 1, 0]), net.weight.detach().clone()
        >>> restore = SAM(rho=0.05)(net, lambda: cross_entropy(net(x), y), epoch=0)
        >>> round((net.weight.detach() - before).norm().item(), 4)
        0.05
        >>> restore()
        >>> torch.equal(net.weight.detach(), before)
        True

    Paper: Foret et al. 2021 (arXiv 2010.01412), equation 2 with p = 2.
    Reference: SamsungLabs/ASAM@dc9b513, google-research/sam@1c8af51.
    Deviates: the gradient g is the mean over the ranks, so that several devices move as one does. The authors' replicas
    each move along the gradient of their own samples (m-sharpness, section 4.1) unless `sync_perturbations` is set;
    smaller batches whose gradients accumulate do that here. Running statistics of batch norms are updated at the moved
    parameters alone, by google-research/sam at the unmoved ones, by SamsungLabs/ASAM at both: on the net and batch of
    tests/golden, they differ by 0.04 % (rho 0.05). In google-research/sam, g also holds the gradient of the weight
    decay, which changes the direction of the move by 0.4 % there (decay 5e-4).
    """

    def __init__(
        self, rho: float = 0.05, start_epoch: int = 0, restore: Literal["before_step", "after_step"] = "before_step"
    ) -> None:
        if rho < 0:
            raise ValueError(f"rho must be >= 0, got {rho}.")
        super().__init__(rho, start_epoch, restore)
        self.rho = rho

    def movable(self, net: nn.Module) -> list[nn.Parameter]:
        """Return all parameters that train."""
        return [p for p in net.parameters() if p.requires_grad]

    def direction(
        self, net: nn.Module, weights: list[nn.Parameter], loss_fn: Callable[[], Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return `g / ||g||`, where the norm is that of all parameters, and a factor of 1."""
        gradient = self.gradient(loss_fn().mean(), weights)
        norm = joint_norm(gradient)
        return [safe_ratio(g, norm) for g in gradient], [torch.ones_like(norm)] * len(weights)
