"""Adaptive sharpness-aware minimization (ASAM): weights move in proportion to their size."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_robust.parts.sam import SAM
from lightning_robust.parts.weight_arithmetic import joint_norm, safe_ratio


class ASAM(SAM):
    """Adaptive sharpness-aware minimization: the gradient is taken at `w + rho T^2 g / ||T g||` with `T = |w| + eta`.

    Unlike SAM's, the move is the same if a layer is scaled up and the next one down. Parameters whose names lack
    "weight", such as biases, have `T = 1`.

    Args:
        rho: distance that the parameters move in units of T, >= 0.
        eta: what is added to the size of a weight, so that zeros move too, >= 0.
        start_epoch: epoch, counting from 0, before which the parameters are not perturbed.
        restore: when they are restored, see `WeightPerturbation`; the authors do so before the step.

    Raises:
        ValueError: for a negative rho or eta.

    Example:
        >>> from lightning_robust.losses import cross_entropy
        >>> net = nn.Linear(2, 2, bias=False)
        >>> x, y, before = torch.rand(4, 2), torch.tensor([0, 1, 1, 0]), net.weight.detach().clone()
        >>> restore = ASAM(rho=0.5)(net, lambda: cross_entropy(net(x), y), epoch=0)
        >>> round(((net.weight.detach() - before) / (before.abs() + 0.01)).norm().item(), 4)
        0.5

    Paper: Kwon et al. 2021 (arXiv 2102.11600), equation 8 and algorithm 1.
    Reference: SamsungLabs/ASAM@dc9b513, whose example for CIFAR has eta 0.
    Deviates: as `SAM`.
    """

    def __init__(
        self,
        rho: float = 0.5,
        eta: float = 0.01,
        start_epoch: int = 0,
        restore: Literal["before_step", "after_step"] = "before_step",
    ) -> None:
        super().__init__(rho, start_epoch, restore)
        if eta < 0:
            raise ValueError(f"eta must be >= 0, got {eta}.")
        self.eta = eta

    def direction(
        self, net: nn.Module, weights: list[nn.Parameter], loss_fn: Callable[[], Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return `T^2 g / ||T g||`, where the norm is that of all parameters, and a factor of 1."""
        named = {id(p) for name, p in net.named_parameters() if "weight" in name}
        sizes = [w.detach().abs() + self.eta if id(w) in named else torch.ones_like(w) for w in weights]
        scaled = [t * g for t, g in zip(sizes, self.gradient(loss_fn().mean(), weights), strict=True)]
        norm = joint_norm(scaled)
        return [t * safe_ratio(g, norm) for t, g in zip(sizes, scaled, strict=True)], [torch.ones_like(norm)] * len(
            weights
        )
