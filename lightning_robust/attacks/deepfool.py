"""DeepFool: steps onto the nearest decision boundary of the linearised net."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_robust.attacks import progress
from lightning_robust.attacks.hyperplane import nearest_boundary
from lightning_robust.attacks.minimum_norm import MinimumNorm, Nearest
from lightning_robust.attacks.rows import Rows
from lightning_robust.attacks.success import misclassified
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Norm, Threat
from lightning_robust.types import Net

_NUDGE = 1e-4


@dataclass
class _Walk(Rows):
    """The state of each sample's walk: position in the batch, label, point, sum of its steps, and the next nudge."""

    row: Tensor
    y: Tensor
    point: Tensor
    total: Tensor
    nudge: Tensor


class DeepFool(MinimumNorm):
    """Steps onto the nearest boundary of the net linearised at each point, until the net errs.

        total <- total + d,   point <- x + (1 + overshoot) total, clamped into the box

    where d is the least shift onto the hyperplane, made 0.0001 longer (more, while two logits stay equal). It is quick,
    and its examples are not as near as those of FAB.

    Args:
        threat: linf or l2, and the box; called as an attack, also the radius. By default l2 with eps = 0.5.
        steps: maximum number of steps, >= 1; `candidates` backward and two forward passes each.
        overshoot: how far to go beyond the boundary, as a share of the way, >= 0.
        candidates: how many of the most probable other classes to look at in each step, >= 1.

    Raises:
        ValueError: for l1, and for a setting out of its range.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> x_adv = DeepFool(Threat("l2", 0.5))(net, x, y)
        >>> bool((x_adv - x).flatten(1).norm(dim=1).max() <= 0.5 + 1e-5)
        True

    Paper: Moosavi-Dezfooli et al. 2016 (arXiv 1511.04599), algorithm 2, and section 3.3 for linf.
    Reference: bethgelab/foolbox@v3.3.4, attacks/deepfool.py, also for the 0.0001: without it steps cut by the clamp
    would come ever closer to the boundary and not cross it.
    On a recorded net the distances are within 0.4 % of those of jeromerony/adversarial-library@9dec220.
    Deviates: the candidates are those of each point, not of the clean image: the same for nets of up to 11 classes.
    """

    norms = ("linf", "l2")
    default_threat = Threat("l2", 0.5)

    def __init__(
        self, threat: Threat | None = None, steps: int = 50, overshoot: float = 0.02, candidates: int = 10
    ) -> None:
        super().__init__(threat)
        self.steps = steps
        self.overshoot = overshoot
        self.candidates = candidates
        if steps < 1:
            raise ValueError(f"steps must be >= 1, got {steps}.")
        if not overshoot >= 0:
            raise ValueError(f"overshoot must be >= 0, got {overshoot}.")
        if candidates < 1:
            raise ValueError(f"candidates must be >= 1, got {candidates}.")

    def search(self, net: Net, y: Tensor, logits: Tensor, found: Nearest, rng: SampleRNG) -> None:
        """Walk until the net errs; see `MinimumNorm.search`."""
        row = found.left
        nudge = torch.full_like(found.size[row], _NUDGE)
        walk = _Walk(row, y[row], found.x[row], torch.zeros_like(found.x[row]), nudge)
        for _ in progress.steps(self.steps):
            if not len(walk.row):
                return
            walk.total = walk.total + self._step(net, walk)
            walk.point = found.x[walk.row] + (1 + self.overshoot) * walk.total
            walk.point = walk.point.clamp(self.threat.lower, self.threat.upper)
            with torch.no_grad():
                wrong = misclassified(net, walk.point, net(walk.point), walk.y)
            found.take(walk.row, walk.point, wrong)
            walk = walk[~wrong]

    def _step(self, net: Net, walk: _Walk) -> Tensor:
        w, gap = nearest_boundary(net, walk.point, walk.y, self.candidates, self.threat.norm)
        way = self.threat.steepest(w.view_as(walk.point)).flatten(1)
        slope = (w * way).sum(1)
        step = way * torch.where((slope > 0) & gap.isfinite(), gap.abs() / slope + walk.nudge, 0)[:, None]
        walk.nudge = torch.where(gap == 0, 2 * walk.nudge, _NUDGE)  # until it leads beyond where two logits are equal
        return step.view_as(walk.point)


def deepfool(net: Net, x: Tensor, y: Tensor, norm: Norm = "l2", eps: float | str = "1/2", **settings: Any) -> Tensor:
    """Run DeepFool as a plain function: the nearest examples within the radius, else the clean images.

    Args:
        net: images [b c h w] to logits [b k], in any mode; it is left exactly as it was.
        x: clean images [b c h w] in [0, 1].
        y: labels [b].
        norm: "linf" or "l2".
        eps: radius in pixels; a fraction such as "8/255" is read as such.
        settings: those of `DeepFool`.

    Returns:
        Examples [b c h w].

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> x_adv = deepfool(net, x, y, eps=0.5)
        >>> bool((x_adv - x).flatten(1).norm(dim=1).max() <= 0.5 + 1e-5)
        True
    """
    return DeepFool(Threat(norm, eps), **settings)(net, x, y)
