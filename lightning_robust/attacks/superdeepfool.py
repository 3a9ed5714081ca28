"""SuperDeepFool: DeepFool, followed by a projection that makes the perturbation orthogonal to the boundary."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_robust.attacks import progress
from lightning_robust.attacks.hyperplane import nearest_boundary
from lightning_robust.attacks.minimum_norm import MinimumNorm, Nearest, slope_at
from lightning_robust.attacks.rows import Rows
from lightning_robust.attacks.success import misclassified
from lightning_robust.losses import margin
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat, per_image
from lightning_robust.types import Net

_NUDGE = 1e-4
"""How much farther than the linearised net's boundary a step of DeepFool leads, in pixels."""


@dataclass
class _Walk(Rows):
    """The state of each sample: position in the batch, label, and point."""

    row: Tensor
    y: Tensor
    point: Tensor


class SuperDeepFool(MinimumNorm):
    """Repeats DeepFool and a projection, until the net errs, then shortens the perturbation by bisection.

        x' <- DeepFool from the point,   point <- point + <x' - x, w> w,   clamped into the box

    with the unit normal w of the boundary at x'. The nearest example lies where the perturbation is orthogonal to the
    boundary, which DeepFool's need not be.

    Args:
        threat: l2 and the box; called as an attack, also the radius. By default l2 with eps = 0.5.
        steps: repetitions, >= 1.
        inner_steps: steps of DeepFool in each, >= 1, of `candidates` backward and two forward passes.
        overshoot: how far DeepFool's steps go beyond the boundary, as a share of the way, >= 0.
        bisections: halvings of the interval between the image and the example, >= 0, of one forward pass each.
        candidates: how many of the most probable other classes DeepFool looks at in each step, >= 1.

    Raises:
        ValueError: for another norm, or a setting out of its range.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks.minimum_norm import minimum_norms
        >>> net = torch.nn.Linear(2, 2, bias=False)
        >>> net.weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # its boundary is where the first value is 0
        >>> attack = SuperDeepFool(Threat("l2", 1.0, lower=-1.0))
        >>> minimum_norms(attack, net, torch.tensor([[0.3, 0.1]]), torch.tensor([0])).mul(100).round()
        tensor([30.])

    Paper: Abdolahpourrostam et al. 2024 (arXiv 2303.12481), SDF(inf, 1).
    Reference: jeromerony/adversarial-library@9dec220, superdeepfool.py, whose distances these are to rounding. Like it,
    and unlike alirezaabdollahpour/SuperDeepFool@20f75b2, the points stay in the box; without a box the distances are
    within 0.7 % of those of the latter on a recorded net.
    Deviates: where DeepFool ends without an example, w belongs to the most probable other class, in the reference to
    the class of its last step.
    """

    norms = ("l2",)
    default_threat = Threat("l2", 0.5)

    def __init__(
        self,
        threat: Threat | None = None,
        steps: int = 30,
        inner_steps: int = 50,
        overshoot: float = 0.02,
        bisections: int = 10,
        candidates: int = 10,
    ) -> None:
        super().__init__(threat)
        for name, value in (("steps", steps), ("inner_steps", inner_steps), ("candidates", candidates)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}.")
        for name, least in (("overshoot", overshoot), ("bisections", bisections)):
            if not least >= 0:
                raise ValueError(f"{name} must be >= 0, got {least}.")
        self.steps = steps
        self.inner_steps = inner_steps
        self.overshoot = overshoot
        self.bisections = bisections
        self.candidates = candidates

    def search(self, net: Net, y: Tensor, logits: Tensor, found: Nearest, rng: SampleRNG) -> None:
        """Walk until the net errs, then go back as far as it still does; see `MinimumNorm.search`."""
        row = found.left
        walk = _Walk(row, y[row], found.x[row].clone())
        for _ in progress.steps(self.steps):
            if not len(walk.row):
                break
            ahead = self._deepfool(net, walk)
            normal, _, _ = slope_at(net, ahead, walk.y, margin)
            normal = normal / per_image(normal.flatten(1).norm(dim=1).clamp_min(1e-6), normal)
            along = ((ahead - found.x[walk.row]) * normal).flatten(1).sum(1)
            walk.point = self._boxed(walk.point + per_image(along, normal) * normal)
            with torch.no_grad():
                wrong = misclassified(net, walk.point, net(walk.point), walk.y)
            found.take(walk.row, walk.point, wrong)
            walk = walk[~wrong]
        self._shorten(net, y, row[found.size[row].isfinite()], found)

    def _deepfool(self, net: Net, walk: _Walk) -> Tensor:
        """DeepFool from the points on: the first points where the net errs, or the last ones."""
        ahead, left = walk.point.clone(), torch.arange(len(walk.row), device=walk.row.device)
        for _ in range(self.inner_steps):
            with torch.no_grad():
                left = left[~misclassified(net, ahead[left], net(ahead[left]), walk.y[left])]
            if not len(left):
                break
            w, gap = nearest_boundary(net, ahead[left], walk.y[left], self.candidates, "l2")
            length = w.norm(dim=1, keepdim=True).clamp_min(1e-6)
            step = (1 + self.overshoot) * (gap.abs()[:, None] / length + _NUDGE) * w / length
            ahead[left] = self._boxed(ahead[left] + step.view_as(ahead[left]))
        return ahead

    def _shorten(self, net: Net, y: Tensor, row: Tensor, found: Nearest) -> None:
        """Bisect the lines from the images to their examples."""
        x, end = found.x[row], found.x_adv[row]
        low, high = x.new_zeros(len(row)), x.new_ones(len(row))
        for _ in range(self.bisections if len(row) else 0):
            middle = (low + high) / 2
            point = torch.lerp(x, end, per_image(middle, x))
            with torch.no_grad():
                wrong = misclassified(net, point, net(point), y[row])
            found.take(row, point, wrong)
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)

    def _boxed(self, x: Tensor) -> Tensor:
        return x.clamp(self.threat.lower, self.threat.upper)
