"""Robust weight perturbation (RWP), along the gradient of samples with a small loss."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_robust.parts.weight_arithmetic import add_scaled, assign, joint_norm, safe_ratio
from lightning_robust.parts.weight_perturbation import WeightPerturbation


class RobustWeightPerturbation(WeightPerturbation):
    """Robust weight perturbation: only samples with a small loss direct the move, whose norm is set for all layers.

    Args:
        gamma: size of the perturbation relative to the weights, >= 0.
        threshold: loss below which a sample directs the move.
        steps: number of gradient steps, >= 1.
        start_epoch: epoch, counting from 0, before which the weights are not perturbed.
        restore: when the weights are restored, see `WeightPerturbation`.

    Raises:
        ValueError: for a negative gamma or fewer than one step.

    Example:
        >>> from lightning_robust.losses import cross_entropy
        >>> net = nn.Linear(2, 2, bias=False)
        >>> x, y, before = torch.rand(4, 2), torch.tensor([0, 1, 1, 0]), net.weight.detach().clone()
        >>> perturb = RobustWeightPerturbation(gamma=0.01, threshold=100.0, steps=2)
        >>> restore = perturb(net, lambda: cross_entropy(net(x), y), epoch=0)
        >>> moved = (net.weight.detach() - before).norm() / before.norm()
        >>> round(moved.item(), 4)
        0.01

    Paper: Yu et al. 2022 (arXiv 2205.14826), "Robust weight perturbation for adversarial training".
    Reference: ChaojianYu/Robust-Weight-Perturbation@1aaa83f. Its code for TRADES adds tensors of different shapes and
    cannot run; here the loss of each sample is the method's own.
    Deviates: `restore="before_step"`, as for `AdversarialWeightPerturbation`.
    """

    def __init__(
        self,
        gamma: float = 0.01,
        threshold: float = 1.7,
        steps: int = 10,
        start_epoch: int = 0,
        restore: Literal["before_step", "after_step"] = "before_step",
    ) -> None:
        super().__init__(gamma, start_epoch, restore)
        if steps < 1:
            raise ValueError(f"steps must be >= 1, got {steps}.")
        self.threshold = threshold
        self.steps = steps

    def direction(
        self, net: nn.Module, weights: list[nn.Parameter], loss_fn: Callable[[], Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the sum a of the gradients over the steps and the ratio `||w|| / ||a||` over all layers.

        Each step takes the gradient at the weights moved by gamma along the sum so far.
        """
        saved = [w.detach().clone() for w in weights]
        norm = joint_norm(saved)
        total = [torch.zeros_like(w) for w in saved]
        scales = [torch.zeros_like(norm)] * len(saved)
        try:
            for _ in range(self.steps):
                assign(weights, saved)
                add_scaled(weights, total, scales, self.gamma)
                loss = loss_fn()
                easy = (loss < self.threshold).detach()
                for summed, g in zip(total, self.gradient((loss * easy).mean(), weights), strict=True):
                    summed += g
                scales = [safe_ratio(norm, joint_norm(total))] * len(total)
        finally:
            assign(weights, saved)
        return total, scales
