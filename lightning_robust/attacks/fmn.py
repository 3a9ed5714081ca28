"""FMN: gradient steps within a ball whose radius follows the decision boundary."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_robust.attacks import progress
from lightning_robust.attacks.hyperplane import DUAL
from lightning_robust.attacks.minimum_norm import MinimumNorm, Nearest, farthest, slope_at
from lightning_robust.attacks.rows import Rows
from lightning_robust.losses import margin
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat, norms, per_image
from lightning_robust.types import Net

_LAST_SHARE = 0.01
"""The last step size over the first."""
_NUDGE = 1e-4
"""How much farther than the overshoot to go before the net has erred, in pixels: where two logits are equal, d is 0."""


@dataclass
class _Search(Rows):
    """The state of each sample: position in the batch, label, perturbation, radius, and whether the net once erred."""

    row: Tensor
    y: Tensor
    shift: Tensor
    radius: Tensor
    crossed: Tensor


class FMN(MinimumNorm):
    """Takes gradient steps in a ball whose radius shrinks while the net errs, and grows while it does not.

        d <- project(d + a g / ||g||_2, e),   x + d clamped into the box

    with the gradient g of the margin, and the radius e that becomes `e (1 - c)` (at most the smallest norm found) where
    the net errs at x + d, `e (1 + c)` where it no longer errs, and where it never did
    `(||d|| + |margin| / ||g||_dual) (1 + overshoot) + 0.0001`: beyond the linearised boundary. In l0 it changes by
    1 value at least. Step size a and share c fall by a cosine.

    Args:
        threat: any norm, and the box; called as an attack, also the radius.
        steps: steps, >= 1, of one forward and one backward pass each.
        step_size: the first a, in pixels, > 0; the last is a hundredth of it.
        shrink: the first c, in (0, 1).
        last_shrink: the last c, in (0, 1).
        overshoot: how far beyond the linearised net's boundary to go before the net has erred, as a share of the way,
            >= 0. With 0 (and then without the 0.0001) the points may come ever closer to it and not cross it.

    Raises:
        ValueError: for a setting out of its range.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks.minimum_norm import minimum_norms
        >>> net = torch.nn.Linear(2, 2, bias=False)
        >>> net.weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # its boundary is where the first value is 0
        >>> attack = FMN(Threat("l2", 1.0, lower=-1.0), steps=200)
        >>> minimum_norms(attack, net, torch.tensor([[0.3, 0.1]]), torch.tensor([0])).mul(100).round()
        tensor([30.])

    Paper: Pintor et al. 2021 (arXiv 2102.12827), algorithm 1.
    Reference: jeromerony/adversarial-library@9dec220, fast_minimum_norm.py, whose distances these are to rounding
    with `overshoot=0`.
    Deviates: with overshoot 0, as in the reference, 7 of 9 samples of a recorded net never cross the boundary in l2.
    """

    norms = ("linf", "l2", "l1", "l0")

    def __init__(
        self,
        threat: Threat | None = None,
        steps: int = 100,
        step_size: float = 1.0,
        shrink: float = 0.05,
        last_shrink: float = 0.001,
        overshoot: float = 0.02,
    ) -> None:
        super().__init__(threat)
        if steps < 1:
            raise ValueError(f"steps must be >= 1, got {steps}.")
        if not step_size > 0:
            raise ValueError(f"step_size must be > 0, got {step_size}.")
        for name, share in (("shrink", shrink), ("last_shrink", last_shrink)):
            if not 0 < share < 1:
                raise ValueError(f"{name} must lie in (0, 1), got {share}.")
        if not overshoot >= 0:
            raise ValueError(f"overshoot must be >= 0, got {overshoot}.")
        self.steps = steps
        self.overshoot = overshoot
        self.step_size = step_size
        self.shrink = shrink
        self.last_shrink = last_shrink

    def search(self, net: Net, y: Tensor, logits: Tensor, found: Nearest, rng: SampleRNG) -> None:
        """Step and change the radius until the steps end; see `MinimumNorm.search`."""
        row, sparse = found.left, self.threat.norm == "l0"
        x = found.x[row]
        radius = torch.full_like(found.size[row], 1.0 if sparse else torch.inf)
        run = _Search(row, y[row], torch.zeros_like(x), radius, torch.zeros_like(row, dtype=torch.bool))
        for k in progress.steps(self.steps):
            if not len(run.row):
                return
            x, falling = found.x[run.row], (1 + math.cos(math.pi * k / self.steps)) / 2
            rate = self.step_size * (_LAST_SHARE + (1 - _LAST_SHARE) * falling)
            share = self.last_shrink + (self.shrink - self.last_shrink) * falling
            slope, lead, wrong = slope_at(net, x + run.shift, run.y, margin)
            found.take(run.row, x + run.shift, wrong)
            run.crossed = run.crossed | wrong
            best = found.size[run.row]
            if sparse:
                run.radius = _whole(run.radius, share, wrong, best)
            else:
                linear = lead.abs() / norms(slope.flatten(1), DUAL[self.threat.norm]).clamp_min(1e-12)
                never = norms(run.shift.flatten(1), self.threat.norm) + linear
                never = never * (1 + self.overshoot) + (_NUDGE if self.overshoot else 0)
                outside = torch.where(run.crossed, run.radius * (1 + share), never)
                run.radius = torch.where(wrong, torch.minimum(run.radius * (1 - share), best), outside)
            run.radius = torch.minimum(run.radius, farthest(x, self.threat))
            step = slope / per_image(slope.flatten(1).norm(dim=1).clamp_min(1e-12), x)
            shift = _onto(run.shift + rate * step, run.radius, self.threat)
            run.shift = (x + shift).clamp(self.threat.lower, self.threat.upper) - x
            if (done := found.done[run.row]).any():
                run = run[~done]


def _whole(radius: Tensor, share: float, wrong: Tensor, best: Tensor) -> Tensor:
    """The next numbers of values [b] that may change."""
    fewer = torch.minimum(torch.minimum(radius - 1, (radius * (1 - share)).floor()), best)
    more = torch.maximum(radius + 1, (radius * (1 + share)).floor())
    return torch.where(wrong, fewer, more).clamp_min(0)


def _onto(shift: Tensor, radius: Tensor, threat: Threat) -> Tensor:
    """Return the shifts [b ...] projected onto the ball without a box; in l2 onto its surface, as in the reference."""
    if threat.norm == "l2":
        return shift * per_image(radius / shift.flatten(1).norm(dim=1).clamp_min(1e-12), shift)
    return threat.without_box().project(shift, torch.zeros_like(shift), radius)
