"""Adversarial weight perturbation (AWP), along the gradient of all samples."""

from collections.abc import Callable

from torch import Tensor, nn

from lightning_robust.parts.weight_arithmetic import safe_ratio
from lightning_robust.parts.weight_perturbation import WeightPerturbation


class AdversarialWeightPerturbation(WeightPerturbation):
    """Adversarial weight perturbation: each layer moves along its gradient by gamma times the norm of its weights.

    Args: those of `WeightPerturbation`.

    Example:
        >>> import torch
        >>> from lightning_robust.losses import cross_entropy
        >>> net = nn.Linear(2, 2, bias=False)
        >>> x, y, before = torch.rand(4, 2), torch.tensor([0, 1, 1, 0]), net.weight.detach().clone()
        >>> restore = AdversarialWeightPerturbation(gamma=0.01)(net, lambda: cross_entropy(net(x), y), epoch=0)
        >>> moved = (net.weight.detach() - before).norm() / before.norm()
        >>> round(moved.item(), 4)
        0.01
        >>> restore()
        >>> torch.equal(net.weight.detach(), before)
        True

    Paper: Wu et al. 2020 (arXiv 2004.05884), equations 8 and 10.
    Reference: csdongxian/AWP@a7acf5d.
    Deviates: `restore="before_step"`, where the authors' weight decay also acts on the perturbation. The step differs
    by lr x weight decay x perturbation, 0.004 % of it on the recorded step of tests/golden (rate 0.1, decay 5e-4);
    "after_step" reproduces theirs.
    """

    def direction(
        self, net: nn.Module, weights: list[nn.Parameter], loss_fn: Callable[[], Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the gradient g and the ratio `||w|| / ||g||` of each weight."""
        gradient = self.gradient(loss_fn().mean(), weights)
        scales = [safe_ratio(w.detach().norm(), g.norm()) for w, g in zip(weights, gradient, strict=True)]
        return gradient, scales
