"""sigma-zero: few values change, by a smooth count of them and a threshold that sets small changes to zero."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_robust.attacks import progress
from lightning_robust.attacks.adam import AdamRows
from lightning_robust.attacks.minimum_norm import MinimumNorm, Nearest, slope_at
from lightning_robust.losses import margin
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat, per_image
from lightning_robust.types import Net

_LAST_SHARE = 0.1
"""The last step size over the first."""


@dataclass
class _Search(AdamRows):
    """The state of each sample: position in the batch, label, perturbation, and threshold."""

    row: Tensor
    y: Tensor
    shift: Tensor
    threshold: Tensor


class SigmaZero(MinimumNorm):
    """Descends `max(-margin, 0) + mean_i d_i^2 / (d_i^2 + sigma)`, and sets to 0 the values of d below a threshold.

    The mean is a smooth count of the values that change. The gradient is divided by its greatest value and followed by
    Adam, with a step size that falls by a cosine. The threshold rises by `pace` times the step size while the net errs,
    and falls by as much while it does not.

    Args:
        threat: l0 and the box; called as an attack, also how many values may change. By default l0 with eps = 24.
        steps: steps, >= 1, of one forward and one backward pass each.
        step_size: the first step size, in pixels, > 0; the last is a tenth of it.
        sigma: smoothness of the count, > 0: the smaller, the sharper.
        threshold: the first threshold, in pixels, in [0, 1].
        pace: the change of the threshold over the step size, >= 0. With 0 the threshold stays, as in the authors' first
            release (Cinofix/sigma-zero-adversarial-attack@afad332).

    Raises:
        ValueError: for another norm, or a setting out of its range.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks.minimum_norm import minimum_norms
        >>> net = torch.nn.Linear(4, 2, bias=False)
        >>> net.weight.data = torch.tensor([[0.0, 0.0, 0.0, 0.0], [9.0, -1.0, -1.0, -1.0]])
        >>> minimum_norms(SigmaZero(steps=100), net, torch.full((1, 4), 0.3), torch.tensor([1]))
        tensor([1.])

    Paper: Cina et al. 2025 (arXiv 2402.01879), algorithm 1.
    Reference: sigma0-advx/sigma-zero@f79dedd, whose counts these are in float64.
    Deviates: none known.
    """

    norms = ("l0",)
    default_threat = Threat("l0", 24)

    def __init__(
        self,
        threat: Threat | None = None,
        steps: int = 100,
        step_size: float = 1.0,
        sigma: float = 1e-3,
        threshold: float = 0.3,
        pace: float = 0.01,
    ) -> None:
        super().__init__(threat)
        if steps < 1:
            raise ValueError(f"steps must be >= 1, got {steps}.")
        for name, value in (("step_size", step_size), ("sigma", sigma)):
            if not value > 0:
                raise ValueError(f"{name} must be > 0, got {value}.")
        if not pace >= 0:
            raise ValueError(f"pace must be >= 0, got {pace}.")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {threshold}.")
        self.steps = steps
        self.step_size = step_size
        self.sigma = sigma
        self.threshold = threshold
        self.pace = pace

    def search(self, net: Net, y: Tensor, logits: Tensor, found: Nearest, rng: SampleRNG) -> None:
        """Step and change the threshold until the steps end; see `MinimumNorm.search`."""
        row = found.left
        still, threshold = torch.zeros_like(found.x[row]), torch.full_like(found.size[row], self.threshold)
        run = _Search(row, y[row], still, threshold, mean=still, square=still)
        for k in progress.steps(self.steps):
            if not len(run.row):
                return
            x, d = found.x[run.row], run.shift
            slope, _, wrong = slope_at(net, x + d, run.y, lambda z, y: -margin(z, y).clamp_max(0))
            found.take(run.row, x + d, wrong)
            slope = slope + 2 * self.sigma * d / (d.square() + self.sigma).square() / d[0].numel()
            slope = slope / per_image(slope.flatten(1).abs().amax(1).clamp_min(1e-12), x)
            rate = self._rate(k)
            d = (x + d - rate * run.direction(slope, k + 1)).clamp(self.threat.lower, self.threat.upper) - x
            change = self.pace * self._rate(k + 1)
            run.threshold = torch.where(wrong, run.threshold + change, run.threshold - change).clamp(0, 1)
            run.shift = d * (d.abs() >= per_image(run.threshold, x))
            if (done := found.done[run.row]).any():
                run = run[~done]

    def _rate(self, k: int) -> float:
        """The step size of step k."""
        falling = (1 + math.cos(math.pi * k / self.steps)) / 2
        return self.step_size * (_LAST_SHARE + (1 - _LAST_SHARE) * falling)
