"""Regularizers that add a penalty to a defense's loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn

from lightning_robust.losses import cross_entropy, mean_logit
from lightning_robust.runtime.gradients import input_gradient
from lightning_robust.runtime.modes import twice_differentiable
from lightning_robust.runtime.outputs import logits_of
from lightning_robust.runtime.ranks import world_size
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.schedules import StepDecay
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Views


class Regularizer(ABC):
    """Base class of penalties per sample, which are computed after the method's own forward passes."""

    name: str
    """Name of the penalty in the log."""

    @abstractmethod
    def __call__(self, net: nn.Module, batch: Batch, views: Views, epoch: int) -> Tensor:
        """Return the weighted penalty of each sample.

        Args:
            net: images to logits.
            batch: the clean batch.
            views: the method's perturbed images.
            epoch: epoch, counting from 0.

        Returns:
            Penalties [b], differentiable with respect to the net's weights.
        """

    def in_step(self, net: nn.Module, batch: Batch, views: Views, epoch: int, threat: Threat, rng: SampleRNG) -> Tensor:
        """Return the weighted penalty of each sample in a training step; by default, what calling it returns.

        Penalties that look around the images take the radius of the training attack, and the step's random numbers.

        Args:
            net: images to logits.
            batch: the clean batch.
            views: the method's perturbed images.
            epoch: epoch, counting from 0.
            threat: that of the training attack.
            rng: random numbers of each sample.
        """
        return self(net, batch, views, epoch)


class EffectiveWeightNorm(Regularizer):
    """Effective margin regularization: the squared norm of the mean effective weight, by which the margin is divided.

    The penalty is `weight ||grad_x sum_k p_k f_k(x)||_2^2` with `p = softmax(f(x) / T)` held constant. The net runs in
    evaluation mode (running statistics), so that the gradient is each sample's own.

    Args:
        weight: weight of the penalty, >= 0; with `reduction="mean"` it is the paper's lambda over its batch size (for
            AT, 3/128).
        temperature: temperature T of the softmax, > 0.
        images: images at which the gradient is taken: "adversarial", those of the method, or "clean".
        reduction: "mean" averages over the batch, whatever its size. "authors" divides by the global batch size once
            more, as the authors' code does by penalising the gradient of a batch mean.
        milestones: epochs, counting from 0, from which the weight is multiplied by `decay` once more.
        decay: the factor at each milestone.

    Raises:
        ValueError: for a negative weight or a temperature that is not > 0.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> batch = Batch(torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1]))
        >>> penalty = EffectiveWeightNorm(weight=0.1, images="clean")(net, batch, Views(batch.x), epoch=0)
        >>> penalty.shape, penalty.requires_grad
        (torch.Size([3]), True)

    Paper: Liu, Chan 2022 (arXiv 2210.05118).
    Reference: ziquanliu/Effective_Margin_Reg@c3e041c.
    Deviates: `reduction="mean"`; with "authors" the value and its gradient are the authors' to rounding.
    """

    name = "emr"

    def __init__(
        self,
        weight: float = 3 / 128,
        temperature: float = 1.0,
        images: Literal["adversarial", "clean"] = "adversarial",
        reduction: Literal["mean", "authors"] = "mean",
        milestones: Sequence[int] = (),
        decay: float = 0.1,
    ) -> None:
        if weight < 0 or not temperature > 0:
            raise ValueError(f"weight must be >= 0 and temperature > 0, got {weight} and {temperature}.")
        self.weight = weight
        self.milestones = tuple(milestones)
        self.decay = decay
        self._schedule = StepDecay(weight, milestones, decay)
        self.temperature = temperature
        self.images = images
        self.reduction = reduction

    def __call__(self, net: nn.Module, batch: Batch, views: Views, epoch: int) -> Tensor:
        """Return the weighted penalty [b] of each sample."""
        x = views.adv if self.images == "adversarial" else batch.x
        weight = self._schedule(epoch) / (len(x) * world_size() if self.reduction == "authors" else 1)
        return weight * _squared_gradient_norm(net, x, lambda logits: mean_logit(logits, self.temperature))


class InputGradient(Regularizer):
    """Input-gradient regularization: the squared norm of the cross-entropy's gradient with respect to the image.

    The penalty is `weight ||grad_x CE(f(x), y)||_2^2`. The net runs in evaluation mode (running statistics), so that
    the gradient is each sample's own.

    Args:
        weight: weight of the penalty, >= 0.
        images: images at which the gradient is taken: "clean", or "adversarial", those of the method.

    Raises:
        ValueError: for a negative weight.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> batch = Batch(torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1]))
        >>> penalty = InputGradient(weight=0.1)(net, batch, Views(batch.x), epoch=0)
        >>> penalty.shape, penalty.requires_grad
        (torch.Size([3]), True)

    Paper: Ross & Doshi-Velez 2018 (arXiv 1711.09404), equation 6.
    """

    name = "input_gradient"

    def __init__(self, weight: float = 1.0, images: Literal["adversarial", "clean"] = "clean") -> None:
        if weight < 0:
            raise ValueError(f"weight must be >= 0, got {weight}.")
        self.weight = weight
        self.images = images

    def __call__(self, net: nn.Module, batch: Batch, views: Views, epoch: int) -> Tensor:
        """Return the weighted penalty [b] of each sample."""
        x = views.adv if self.images == "adversarial" else batch.x
        return self.weight * _squared_gradient_norm(net, x, lambda logits: cross_entropy(logits, batch.y))


def _squared_gradient_norm(net: nn.Module, x: Tensor, value: Callable[[Tensor], Tensor]) -> Tensor:
    """Return `||grad_x value(net(x))||_2^2` of each sample [b], differentiable with respect to the weights."""
    with twice_differentiable(net, x):
        gradient, _ = input_gradient(lambda z: value(logits_of(net(z))), x, create_graph=True)
        return gradient.square().flatten(1).sum(1)
