"""The base class of perturbations of the weights, which hold while the training loss is computed."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_robust.parts.weight_arithmetic import add_scaled, assign, joint_norm, weight_gradient
from lightning_robust.runtime.modes import frozen_running_stats


class WeightPerturbation(ABC):
    """Base class of weight perturbations: they move the weights to where the loss is worse, and back afterwards.

    By default, weights with two dimensions or more move alone, so neither biases nor the scales of batch norms. With
    several ranks the gradient that directs the move is averaged, so that every rank moves as one process on the joined
    batch would.

    Args:
        gamma: size of the perturbation relative to the weights, >= 0.
        start_epoch: epoch, counting from 0, before which the weights are not perturbed.
        restore: "before_step" restores the weights after the backward pass, bit for bit, before the optimizer's step.
            "after_step" lets the optimizer step on the perturbed weights and then subtracts the perturbation, as the
            authors do; weight decay then also acts on the perturbation. (While gradients accumulate, the optimizer
            meets only the last batch's perturbation; the others are restored as with "before_step".)

    Raises:
        ValueError: for a negative gamma.
    """

    scale: Tensor | None = None
    """Factor of the loss that keeps gradients from vanishing in fp16: a defense sets it to its gradient scaler's."""

    def __init__(
        self, gamma: float = 0.01, start_epoch: int = 0, restore: Literal["before_step", "after_step"] = "before_step"
    ) -> None:
        if gamma < 0:
            raise ValueError(f"gamma must be >= 0, got {gamma}.")
        self.gamma = gamma
        self.start_epoch = start_epoch
        self.restore = restore

    def gradient(self, loss: Tensor, weights: list[nn.Parameter]) -> list[Tensor]:
        """Return the gradient of a scalar loss with respect to the weights, averaged over the ranks.

        It is taken of the loss times `scale` and divided by it again; where that overflows, it is 0.
        """
        if self.scale is None:
            return weight_gradient(loss, weights)
        gradient = [g / self.scale for g in weight_gradient(loss * self.scale, weights)]
        finite = torch.isfinite(joint_norm(gradient))
        return [torch.where(finite, g, torch.zeros_like(g)) for g in gradient]

    def movable(self, net: nn.Module) -> list[nn.Parameter]:
        """Return the net's parameters that move."""
        return [p for name, p in net.named_parameters() if p.dim() > 1 and "weight" in name and p.requires_grad]

    @abstractmethod
    def direction(
        self, net: nn.Module, weights: list[nn.Parameter], loss_fn: Callable[[], Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return a direction and a scalar for each weight, which then moves by gamma times both.

        Args:
            net: the net.
            weights: the weights to perturb; they must be unchanged on return.
            loss_fn: returns the loss [b] of each sample at the current weights.
        """

    def __call__(self, net: nn.Module, loss_fn: Callable[[], Tensor], epoch: int) -> Callable[[], None]:
        """Perturb the net's weights in place, and return the function that restores them.

        Args:
            net: the net.
            loss_fn: returns the loss [b] of each sample at the current weights.
            epoch: epoch, counting from 0.
        """
        if epoch < self.start_epoch:
            return lambda: None
        weights = self.movable(net)
        with frozen_running_stats(net):
            directions, scales = self.direction(net, weights, loss_fn)
        saved = [w.detach().clone() for w in weights] if self.restore == "before_step" else []
        add_scaled(weights, directions, scales, self.gamma)
        if self.restore == "before_step":
            return lambda: assign(weights, saved)
        return lambda: add_scaled(weights, directions, scales, -self.gamma)
