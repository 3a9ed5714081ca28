"""PDPGD: the least perturbation with a margin below zero, by descent on its size and ascent on the margin's weight."""

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

_LAST_STEP, _LAST_PACE = 0.01, 0.1
"""The last step size over the first, and the last pace of the weights over the first."""
_FIRST_WEIGHT, _LEAST_WEIGHT, _MEMORY = math.log(100), math.log(1e-6), 0.9
"""Logits of the margin's first weight and of its least, and the share of the old weight in the running mean."""
_ROUNDS, _CLOSE = 5, 0.01
"""Proximal steps at most, and the relative change that ends them."""


@dataclass
class _Search(AdamRows):
    """The state of each sample: position in the batch, label, perturbation, weight of the margin and its logit."""

    row: Tensor
    y: Tensor
    shift: Tensor
    weight: Tensor
    logit: Tensor


class PDPGD(MinimumNorm):
    """Minimises `(1 - w) ||d|| + w softplus(-margin)` over d, and raises w while the net does not err.

    Adam descends the margin's term, and the norm's proximal operator takes its own step exactly, which makes d sparse
    in l1 and l0 (there the operator of the sum of `abs(d_i)^(2/3)`) and flat in linf. w is the running mean of a
    sigmoid, whose logit moves by `pace` in the direction of the sign of -margin.

    Args:
        threat: any norm, and the box; called as an attack, also the radius.
        steps: steps, >= 2, of one forward and one backward pass each.
        step_size: Adam's first step size, in pixels, > 0; the last is a hundredth of it.
        pace: the first change of the logit of w in a step, > 0; the last is a tenth of it.
        proximal: whether to take the norm's step by its proximal operator; if not, Adam descends both terms, in l2
            alone (PDGD).

    Raises:
        ValueError: for a setting out of its range, or another norm without the proximal operator.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks.minimum_norm import minimum_norms
        >>> net = torch.nn.Linear(2, 2, bias=False)
        >>> net.weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # its boundary is where the first value is 0
        >>> attack = PDPGD(Threat("linf", 1.0, lower=-1.0), steps=1000)
        >>> minimum_norms(attack, net, torch.tensor([[0.3, 0.1]]), torch.tensor([0])).mul(10).round()
        tensor([3.])

    Paper: Matyasko & Chau 2021 (arXiv 2106.01538), algorithms 1 and 2.
    Reference: jeromerony/adversarial-library@9dec220, primal_dual_gradient_descent.py (l0: proximal_operator=23).
    Deviates: the reference keeps w in float32 also where all else is float64.
    """

    norms = ("linf", "l2", "l1", "l0")

    def __init__(
        self,
        threat: Threat | None = None,
        steps: int = 200,
        step_size: float = 0.1,
        pace: float = 0.1,
        proximal: bool = True,
    ) -> None:
        super().__init__(threat)
        if steps < 2:
            raise ValueError(f"steps must be >= 2, got {steps}.")
        for name, value in (("step_size", step_size), ("pace", pace)):
            if not value > 0:
                raise ValueError(f"{name} must be > 0, got {value}.")
        self.steps = steps
        self.step_size = step_size
        self.pace = pace
        self.proximal = proximal
        self._refuse_other_norms()

    def _refuse_other_norms(self) -> None:
        super()._refuse_other_norms()
        if not getattr(self, "proximal", True) and self.threat.norm != "l2":
            raise ValueError(f"PDPGD with proximal=False works in l2 alone, got a threat in {self.threat.norm}.")

    def search(self, net: Net, y: Tensor, logits: Tensor, found: Nearest, rng: SampleRNG) -> None:
        """Descend and change the weights until the steps end; see `MinimumNorm.search`."""
        row = found.left
        still, logit = torch.zeros_like(found.x[row]), torch.full_like(found.size[row], _FIRST_WEIGHT)
        run = _Search(row, y[row], still, logit.sigmoid(), logit, mean=still, square=still)
        for k in progress.steps(self.steps):
            if not len(run.row):
                return
            x = found.x[run.row]
            slope, lead, wrong = slope_at(net, x + run.shift, run.y, margin)
            found.take(run.row, x + run.shift, wrong)
            rate = self.step_size * _LAST_STEP ** (k / self.steps)
            self._descend(run, x, self._loss_slope(run, slope, lead), rate, k + 1)
            pace = self.pace * (1 - (1 - _LAST_PACE) * k / (self.steps - 1))
            run.logit = (run.logit - pace * lead.sign()).clamp(_LEAST_WEIGHT, -_LEAST_WEIGHT)
            run.weight = _MEMORY * run.weight + (1 - _MEMORY) * run.logit.sigmoid()
            if (done := found.done[run.row]).any():
                run = run[~done]

    def _loss_slope(self, run: _Search, slope: Tensor, lead: Tensor) -> Tensor:
        """The gradient of what Adam descends: of the margin's term, and without the proximal operator of both."""
        through = -torch.sigmoid(-lead)
        if self.proximal:
            return slope * per_image(through, slope)
        length = run.shift.flatten(1).norm(dim=1).clamp_min(torch.finfo(slope.dtype).tiny)
        return slope * per_image(run.weight * through, slope) + run.shift * per_image((1 - run.weight) / length, slope)

    def _descend(self, run: _Search, x: Tensor, slope: Tensor, rate: float, k: int) -> None:
        """Take Adam's step, and the norm's if it is taken by its proximal operator."""
        run.shift = self._boxed(run.shift - rate * run.direction(slope, k), x)
        if not self.proximal:
            return
        size = run.size(k)
        greatest = size.flatten(1).amax(1)
        pull = (1 - run.weight) / run.weight * rate / greatest
        size = size / per_image(greatest, x)
        point, goes_on = run.shift, torch.ones_like(run.row, dtype=torch.bool)
        for _ in range(_ROUNDS):
            nearer = self._boxed(proximal(point + size * (run.shift - point), pull, self.threat), x)
            nearer = torch.where(per_image(goes_on, x).bool(), nearer, point)
            change = (nearer - point).flatten(1).norm(dim=1) / nearer.flatten(1).norm(dim=1)
            point, goes_on = nearer, change > _CLOSE
        run.shift = point

    def _boxed(self, shift: Tensor, x: Tensor) -> Tensor:
        return (x + shift).clamp(self.threat.lower, self.threat.upper) - x


def proximal(d: Tensor, weight: Tensor, threat: Threat) -> Tensor:
    """Return the minimisers of `1/2 ||z - d||_2^2 + weight ||z||`; in l0 with the sum of `abs(z_i)^(2/3)` for the norm.

    Args:
        d: perturbations [b ...].
        weight: weights [b].
        threat: whose norm counts.

    Example:
        >>> proximal(torch.tensor([[0.5, -0.1]]), torch.tensor([0.2]), Threat("l1", 1.0))
        tensor([[0.3000, -0.0000]])
    """
    by = per_image(weight, d)
    if threat.norm == "l1":
        return (d.abs() - by).clamp_min(0).copysign(d)
    if threat.norm == "l2":
        length = per_image(d.flatten(1).norm(dim=1), d)
        return d * (1 - by / length).clamp_min(0).nan_to_num()
    if threat.norm == "linf":
        return d - Threat("l1").without_box().project(d, torch.zeros_like(d), weight)
    square = d.square() / 16
    root = (d.pow(4) / 256 - by.pow(3) * 8 / 729).sqrt()  # NaN where the minimiser is 0
    b = 2 * ((square + root).pow(1 / 3) + (square - root).pow(1 / 3))
    return ((b.sqrt() + (2 * d.abs() / b.sqrt() - b).sqrt()).pow(3) / 8).copysign(d).nan_to_num()
