"""Local linearity regularization (LLR): the loss should be linear around each image."""

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


class LocalLinearity(Regularizer):
    """Penalty on how far the loss is from linear in the training attack's ball, and on its slope there.

    With `l(x) = CE(f(x), y)` and `e(d) = |l(x + d) - l(x) - d . grad l(x)|` it is

        `weight e(d) + mu |d . grad l(x)|`

    at the d of the ball, held constant, at which e is largest, as far as Adam finds it. Given to `Standard`, it makes
    LLR, which trains on no adversarial example.

    Args:
        weight: weight of the deviation from linear, >= 0 (the paper's lambda). The authors' total is twice the
            cross-entropy and `4 (e + 0.3 |d . grad l|)`: at half of it, `weight=2, mu=0.6`, a step has twice the rate
            and half the weight decay.
        mu: weight of the slope, >= 0.
        steps: steps of Adam, >= 0; with 0, d is a random point of the ball.
        step_size: learning rate of Adam, in pixels, > 0.
        bn: how the net's batch norms run, "eval" or "batch", see `AttackBN`. With "eval", a small net on digits fell to
            a constant at the rate that trains it with "batch".

    Raises:
        ValueError: for a setting out of range.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> batch = Batch(torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1]))
        >>> penalty = LocalLinearity(weight=2.0, mu=0.6)(net, batch, Views(batch.x), epoch=0)
        >>> penalty.shape, penalty.requires_grad
        (torch.Size([3]), True)

    Paper: Qin et al. 2019 (arXiv 1907.02610), "Adversarial robustness through local linearization", equation 8.
    Reference: google-deepmind/local_linearity_regularizer@0471752.
    Deviates: the reference takes the batch's statistics at x, also at x + d; here each has its own.
    No record of it was compared with; values and gradients are held to closed forms and finite differences.
    """

    name = "local_linearity"

    def __init__(
        self, weight: float = 2.0, mu: float = 0.6, steps: int = 10, step_size: float = 0.1, bn: AttackBN = "batch"
    ) -> None:
        if bn not in ("eval", "batch"):
            raise ValueError(f"LocalLinearity needs bn eval or batch, got {bn!r}.")
        if weight < 0 or mu < 0 or steps < 0 or not step_size > 0:
            raise ValueError(
                "LocalLinearity needs weight, mu and steps >= 0 and step_size > 0, got "
                f"{weight}, {mu}, {steps} and {step_size}."
            )
        self.weight = weight
        self.mu = mu
        self.steps = steps
        self.step_size = step_size
        self.bn = bn

    def __call__(self, net: nn.Module, batch: Batch, views: Views, epoch: int) -> Tensor:
        """Return the weighted penalty [b] of each sample, in the default threat's ball."""
        return self.in_step(net, batch, views, epoch, Threat(), SampleRNG.from_global_seed(batch.x))

    def in_step(self, net: nn.Module, batch: Batch, views: Views, epoch: int, threat: Threat, rng: SampleRNG) -> Tensor:
        """Return the weighted penalty [b] of each sample."""
        x = batch.x

        def loss(z: Tensor) -> Tensor:
            return cross_entropy(logits_of(net(z)), batch.y)

        def deviation(z: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
            return loss(z) - value - ((z - x) * gradient).flatten(1).sum(1)

        with twice_differentiable(net, x, self.bn):
            gradient, value = input_gradient(loss, x, create_graph=True)
            point = threat.random(x, rng)
            adam = torch.optim.Adam([point], self.step_size, maximize=True)
            for _ in range(self.steps):
                point.grad, _ = input_gradient(lambda z: deviation(z, value, gradient.detach()).abs(), point)
                adam.step()
                point.copy_(threat.project(point, x))
            slope = ((point - x) * gradient).flatten(1).sum(1)
            return self.weight * deviation(point, loss(x), gradient).abs() + self.mu * slope.abs()
