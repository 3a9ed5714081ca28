"""Penalties added to a defense's loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn

from lightning_robust.losses import cross_entropy, mean_logit
from lightning_robust.runtime.gradients import input_gradient
from lightning_robust.runtime.modes import twice_differentiable
from lightning_robust.runtime.ranks import world_size
from lightning_robust.schedules import Steps
from lightning_robust.types import Batch, Views


class Regularizer(ABC):
    """A penalty per sample, computed after the method's own forward passes."""

    name: str
    """What its part is called in the log."""

    @abstractmethod
    def __call__(self, net: nn.Module, batch: Batch, views: Views, epoch: int) -> Tensor:
        """The weighted penalty [b] of each sample; epochs count from 0."""


class EffectiveWeightNorm(Regularizer):
    """Effective margin regularization: `weight ||grad_x sum_k p_k f_k(x)||_2^2`, with `p = softmax(f(x) / T)` held
    constant: the squared norm of the mean effective weight, which divides the margin.

    The net runs in evaluation mode (running statistics), so that the gradient is each sample's own.

    Args:
        weight: of the penalty; with `reduction="mean"` it is the paper's lambda over its batch size (AT: 3/128).
        temperature: T, > 0.
        images: those it is computed on: the method's adversarial ones, or the clean ones.
        reduction: "mean" averages over the batch, whatever its size. "authors" divides by the global batch size once
            more, as the authors' code does by penalising the gradient of a batch mean.
        milestones: epochs, counting from 0, from which the weight is `decay` times smaller.
        decay: see `milestones`.

    Raises:
        ValueError: for a negative weight or a temperature that is not > 0.

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
        self.weight = Steps(weight, milestones, decay)
        self.temperature, self.images, self.reduction = temperature, images, reduction

    def __call__(self, net: nn.Module, batch: Batch, views: Views, epoch: int) -> Tensor:
        """The penalty [b]."""
        x = views.adv if self.images == "adversarial" else batch.x
        weight = self.weight(epoch) / (len(x) * world_size() if self.reduction == "authors" else 1)
        return weight * _squared_gradient(net, x, lambda logits: mean_logit(logits, self.temperature))


class InputGradient(Regularizer):
    """Input-gradient regularization: `weight ||grad_x CE(f(x), y)||_2^2`.

    The net runs in evaluation mode (running statistics), so that the gradient is each sample's own.

    Args:
        weight: of the penalty, >= 0.
        images: those it is computed on: the clean ones, or the method's adversarial ones.

    Raises:
        ValueError: for a negative weight.

    Paper: Ross & Doshi-Velez 2018 (arXiv 1711.09404), equation 6.
    """

    name = "input_gradient"

    def __init__(self, weight: float = 1.0, images: Literal["adversarial", "clean"] = "clean") -> None:
        if weight < 0:
            raise ValueError(f"weight must be >= 0, got {weight}.")
        self.weight, self.images = weight, images

    def __call__(self, net: nn.Module, batch: Batch, views: Views, epoch: int) -> Tensor:
        """The penalty [b]."""
        x = views.adv if self.images == "adversarial" else batch.x
        return self.weight * _squared_gradient(net, x, lambda logits: cross_entropy(logits, batch.y))


def _squared_gradient(net: nn.Module, x: Tensor, value: Callable[[Tensor], Tensor]) -> Tensor:
    """||grad_x value(net(x))||_2^2 of each sample [b], differentiable with respect to the weights."""
    with twice_differentiable(net, x):
        gradient, _ = input_gradient(lambda z: value(net(z)), x, create_graph=True)
        return gradient.square().flatten(1).sum(1)
