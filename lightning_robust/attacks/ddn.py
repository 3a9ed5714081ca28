"""DDN: gradient steps to a distance that shrinks while the net errs and grows while it does not."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_robust.attacks import progress
from lightning_robust.attacks.minimum_norm import MinimumNorm, Nearest, farthest, slope_at
from lightning_robust.attacks.rows import Rows
from lightning_robust.losses import cross_entropy
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat, per_image
from lightning_robust.types import Net

_LAST_RATE = 0.01
"""The last step size; the first is 1."""


@dataclass
class _Search(Rows):
    """The state of each sample: position in the batch, label, random numbers, perturbation, and distance."""

    row: Tensor
    y: Tensor
    rng: SampleRNG
    shift: Tensor
    radius: Tensor


class DDN(MinimumNorm):
    """Takes gradient steps to a length set apart from them: shorter while the net errs, longer while it does not.

        d <- e (d + a g / ||g||) / ||d + a g / ||g|| ||,   x + d clamped into the box

    with the gradient g of the cross-entropy, a step size a that falls from 1 to 0.01 by a cosine, and a length e that
    becomes `e (1 - share)` where the net errs at x + d, `e (1 + share)` elsewhere.

    Args:
        threat: l2 and the box; called as an attack, also the radius. By default l2 with eps = 0.5.
        steps: steps, >= 1, of one forward and one backward pass each.
        share: by how much the length changes in a step, in (0, 1).
        first: the first length, in pixels, > 0.
        levels: how many values a pixel may have, evenly over the box, as images of 8 bits have 256; None for all.

    Raises:
        ValueError: for another norm, a setting out of its range, or levels in a box without end.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks.minimum_norm import minimum_norms
        >>> net = torch.nn.Linear(2, 2, bias=False)
        >>> net.weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # its boundary is where the first value is 0
        >>> attack = DDN(Threat("l2", 1.0, lower=-1.0), steps=200)
        >>> minimum_norms(attack, net, torch.tensor([[0.3, 0.1]]), torch.tensor([0])).mul(10).round()
        tensor([3.])

    Paper: Rony et al. 2019 (arXiv 1811.09600), algorithm 1.
    Reference: jeromerony/adversarial-library@9dec220, decoupled_direction_norm.py, whose distances these are to
    rounding; there `levels` is 256 by default.
    Deviates: where a gradient is 0, the direction is drawn from each sample's own random numbers.
    """

    norms = ("l2",)
    default_threat = Threat("l2", 0.5)

    def __init__(
        self,
        threat: Threat | None = None,
        steps: int = 100,
        share: float = 0.05,
        first: float = 1.0,
        levels: int | None = None,
    ) -> None:
        super().__init__(threat)
        if steps < 1:
            raise ValueError(f"steps must be >= 1, got {steps}.")
        if not 0 < share < 1:
            raise ValueError(f"share must lie in (0, 1), got {share}.")
        if not first > 0:
            raise ValueError(f"first must be > 0, got {first}.")
        if levels is not None and (levels < 2 or not math.isfinite(self.threat.upper - self.threat.lower)):
            raise ValueError(f"levels must be at least 2, in a finite box, or left out; got {levels}.")
        self.steps = steps
        self.share = share
        self.first = first
        self.levels = levels

    def search(self, net: Net, y: Tensor, logits: Tensor, found: Nearest, rng: SampleRNG) -> None:
        """Step and change the length until the steps end; see `MinimumNorm.search`."""
        row = found.left
        x = found.x[row]
        run = _Search(row, y[row], rng[row], torch.zeros_like(x), torch.full_like(found.size[row], self.first))
        for k in progress.steps(self.steps):
            if not len(run.row):
                return
            x = found.x[run.row]
            slope, _, wrong = slope_at(net, x + run.shift, run.y, cross_entropy)
            found.take(run.row, x + run.shift, wrong)
            length = slope.flatten(1).norm(dim=1)
            if (flat := length < 1e-12).any():
                slope[flat], length[flat] = run.rng[flat].normal(x[flat]), 1
            rate = _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * k / self.steps)) / 2
            moved = run.shift + rate * slope / per_image(length, x)
            changed = torch.where(wrong, run.radius * (1 - self.share), run.radius * (1 + self.share))
            run.radius = torch.minimum(changed, farthest(x, self.threat))
            moved = moved * per_image(run.radius / moved.flatten(1).norm(dim=1), x)
            run.shift = self._rounded((x + moved).clamp(self.threat.lower, self.threat.upper)) - x
            if (done := found.done[run.row]).any():
                run = run[~done]

    def _rounded(self, x: Tensor) -> Tensor:
        if self.levels is None:
            return x
        step = (self.threat.upper - self.threat.lower) / (self.levels - 1)
        return self.threat.lower + ((x - self.threat.lower) / step).round() * step
