"""Gradient alignment, which keeps training with one-step attacks from catastrophic overfitting."""

import torch
from torch import Tensor, nn

from lightning_robust.losses import cross_entropy
from lightning_robust.parts.regularizers import Regularizer
from lightning_robust.runtime.gradients import input_gradient
from lightning_robust.runtime.modes import AttackBN, twice_differentiable
from lightning_robust.runtime.outputs import logits_of
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Views


class GradAlign(Regularizer):
    """Penalty on the angle between the input gradients at an image and at a random point of its ball.

    It is `weight (1 - cos(g(x), g(x + d)))` with `g(x) = grad_x CE(f(x), y)` and d uniform in the training attack's
    ball. A sample without a gradient adds nothing.

    Args:
        weight: weight of the penalty, >= 0; the authors' by radius on CIFAR-10: 0.2 for 8/255, 2 for 16/255.
        detach: hold g(x) constant, as the authors do where they train on FGSM's examples.
        bn: how the net's batch norms run, see `AttackBN`. The authors' is "train". There, where `detach` is true, g(x)
            leaves running statistics alone: the authors take it from the forward pass of their attack, which has
            updated them.

    Raises:
        ValueError: for a negative weight or an unknown `bn`.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> batch = Batch(torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1]))
        >>> penalty = GradAlign(weight=0.2)(net, batch, Views(batch.x), epoch=0)
        >>> penalty.shape, bool(penalty.abs().max() < 0.2)
        (torch.Size([3]), True)

    Paper: Andriushchenko & Flammarion 2020 (arXiv 2007.02617), equation 5.
    Reference: tml-epfl/understanding-fast-adv-training@ceed494.
    Deviates: the mean is over the batch, theirs over the samples that have a gradient; where all have one, the penalty
    is theirs to rounding.
    """

    name = "grad_align"

    def __init__(self, weight: float = 0.2, detach: bool = True, bn: AttackBN = "eval") -> None:
        if weight < 0 or bn not in ("eval", "batch", "train"):
            raise ValueError(f"GradAlign needs weight >= 0 and bn eval, batch or train, got {weight} and {bn!r}.")
        self.weight = weight
        self.detach = detach
        self.bn = bn

    def __call__(self, net: nn.Module, batch: Batch, views: Views, epoch: int) -> Tensor:
        """Return the weighted penalty [b] of each sample, at random points of the default threat's ball."""
        return self.in_step(net, batch, views, epoch, Threat(), SampleRNG.from_global_seed(batch.x))

    def in_step(self, net: nn.Module, batch: Batch, views: Views, epoch: int, threat: Threat, rng: SampleRNG) -> Tensor:
        """Return the weighted penalty [b] of each sample."""
        ball = threat.without_box()

        def gradient(x: Tensor, bn: AttackBN, live: bool) -> Tensor:
            with twice_differentiable(net, x, bn):
                found, _ = input_gradient(lambda z: cross_entropy(logits_of(net(z)), batch.y), x, create_graph=live)
            return found.flatten(1)

        at_image = gradient(batch.x, "batch" if self.detach and self.bn == "train" else self.bn, not self.detach)
        elsewhere = gradient(ball.random(batch.x, rng), self.bn, True)
        return self.weight * (1 - _cosine(at_image, elsewhere)) * _has_gradient(at_image, elsewhere)


def _has_gradient(a: Tensor, b: Tensor) -> Tensor:
    """Return 1 for the rows [b] that are zero in neither, else 0."""
    return ((a.detach() != 0).any(1) & (b.detach() != 0).any(1)).to(a)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine [b] between rows of any length; of rows that are zero, that of others with gradient 0."""
    units: list[Tensor] = []
    for rows in (a, b):
        largest = rows.detach().abs().amax(1, keepdim=True)  # whose square may underflow
        rows = torch.where(largest > 0, rows / largest.clamp_min(torch.finfo(rows.dtype).tiny), torch.ones_like(rows))
        units.append(rows / rows.norm(dim=1, keepdim=True))
    first, second = units
    return (first * second).sum(1)
