"""FAB, the fast adaptive boundary attack: it walks along the decision boundary towards the clean image."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_robust.attacks import progress
from lightning_robust.attacks.hyperplane import least_gap, nearest_boundary, smallest_shift
from lightning_robust.attacks.minimum_norm import MinimumNorm, Nearest
from lightning_robust.attacks.rows import Rows
from lightning_robust.attacks.runs import Runs
from lightning_robust.attacks.success import misclassified
from lightning_robust.losses import distinct, runners_up
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Norm, Threat, norms, per_image
from lightning_robust.types import Net


@dataclass
class _Walk(Rows):
    """The state of the walks: row of what they found, position in the batch, run, label, classes compared, point.

    The last field says how many times the least gap a walk is to go beyond a point where two logits are equal.
    """

    at: Tensor
    row: Tensor
    run: Tensor
    y: Tensor
    wanted: Tensor | int
    point: Tensor
    push: Tensor


class FAB(MinimumNorm):
    """Runs the fast adaptive boundary attack, which looks for the smallest perturbation in linf, l2 or l1.

    Each step replaces the net by its linearisation at the point, whose nearest boundary to another class is a
    hyperplane. The point z and the clean image x are both shifted onto it, by the least d_z and d_x that stay in the
    box, and the point goes a little beyond, and a little towards x:

        z <- (1 - a) (z + eta d_z) + a (x + eta d_x),   a = min(|d_z| / (|d_z| + |d_x|), alpha_max)

    Where the net errs on it, it is an example, and the walk goes on from x + beta (z - x), nearer to x.

    Args:
        threat: the norm and the box; called as an attack, also the radius. Restarts begin within half of it.
        steps: maximum number of steps for each restart and target, >= 1; one backward and two forward passes each.
        restarts: walks from different points, >= 1: the first from the clean image, the others from random ones.
        targets: FAB-T: one walk for each of so many most probable wrong classes of the clean image, which looks at the
            boundary to this class alone. By default one walk looks at many.
        candidates: without targets, how many of the most probable other classes to look at in each step; one backward
            pass each.
        alpha_max: greatest weight of the clean image's side, in [0, 1].
        eta: how far to go, 1 being onto the hyperplane, >= 1.
        beta: where to go on after a success, 0 being the clean image, in (0, 1).

    Raises:
        ValueError: for a setting out of its range.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> x_adv = FAB(Threat("linf", "8/255"), steps=10)(net, x, y)
        >>> bool((x_adv - x).abs().max() <= 8 / 255 + 1e-6)
        True

    Paper: Croce & Hein 2020 (arXiv 1907.02044), algorithm 1 and, for FAB-T, arXiv 2003.01690, section 5.
    Reference: fra31/auto-attack@a392200, autoattack/fab_base.py.
    Deviates: without targets, the reference compares all classes; this code compares `candidates`. The reference
    restarts at eps / 2 from the clean image; this code restarts within half of eps or, as in the paper, half the
    distance of the nearest example if that is less. A sample that is done leaves within a walk, in the reference after
    it. The final search of the paper is missing in both.
    """

    def __init__(
        self,
        threat: Threat | None = None,
        steps: int = 100,
        restarts: int = 1,
        targets: int | None = None,
        candidates: int = 10,
        alpha_max: float = 0.1,
        eta: float = 1.05,
        beta: float = 0.9,
    ) -> None:
        super().__init__(threat)
        self.steps = steps
        self.restarts = restarts
        self.targets = targets
        self.candidates = candidates
        self.alpha_max = alpha_max
        self.eta = eta
        self.beta = beta
        for name in ("steps", "restarts", "targets", "candidates"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise ValueError(f"{name} must be >= 1, got {number}.")
        if not 0 <= alpha_max <= 1:
            raise ValueError(f"alpha_max must be in [0, 1], got {alpha_max}.")
        if not eta >= 1:
            raise ValueError(f"eta must be >= 1, got {eta}.")
        if not 0 < beta < 1:
            raise ValueError(f"beta must be in (0, 1), got {beta}.")

    def search(self, net: Net, y: Tensor, logits: Tensor, found: Nearest, rng: SampleRNG) -> None:
        """Walk from every start towards every target; see `MinimumNorm.search`."""
        targets = None if self.targets is None else runners_up(logits, y, self.targets)
        count = 1 if targets is None else distinct(targets)
        for restart in progress.phases(range(self.restarts)):
            reach = found.size.clamp_max(self.threat.eps) / 2
            each = Runs(~found.done, count)
            for row, run in each:
                wanted = self.candidates if targets is None else targets[row, run][:, None]
                at, push = torch.arange(len(row), device=row.device), torch.ones_like(found.size[row])
                walk = _Walk(at, row, run, y[row], wanted, found.x[row], push)
                if restart:
                    mine = rng[row].fork(restart * (self.targets or 1) + run)
                    walk.point = self.threat.random(walk.point, mine, reach[row])
                self._walk(net, walk, each, found)

    def _walk(self, net: Net, walk: _Walk, each: Runs, found: Nearest) -> None:
        """Walk until every sample has an example that is near enough, or the steps are used up."""
        row, run = walk.row, walk.run
        mine = Nearest(self.threat, found.x[row], torch.zeros_like(row, dtype=torch.bool), found.enough[row])
        for _ in progress.steps(self.steps):
            x = mine.x[walk.at]
            point = self._step(net, walk, x)
            with torch.no_grad():
                wrong = misclassified(net, point, net(point), walk.y)
            mine.take(walk.at, point, wrong)
            walk.point = torch.where(per_image(wrong, x).bool(), x + self.beta * (point - x), point)
            done = mine.done[walk.at]
            if done.any():
                each.settle(walk.row[done], walk.run[done])
                walk = walk[each.open(walk.row, walk.run)]
                if not len(walk.row):
                    break
        for number in sorted(set(run.tolist())):
            of = (run == number) & (number <= each.first[row])
            found.take(row[of], mine.x_adv[of], mine.size[of] < torch.inf)

    def _step(self, net: Net, walk: _Walk, x: Tensor) -> Tensor:
        """Return the next point of each walk."""
        threat = self.threat
        w, gap = nearest_boundary(net, walk.point, walk.y, walk.wanted, threat.norm)
        # Where two logits are equal, a step onto the boundary would stay: it is made longer until it leads beyond.
        least = walk.push * least_gap(w, walk.point, threat.norm)
        tied = (gap >= 0) & (gap < least)
        gap = torch.where(tied, least, gap)
        walk.push = torch.where(tied, 2 * walk.push, 1)
        both = torch.stack([walk.point, x])
        ahead = (w * (walk.point - x).flatten(1)).sum(1)
        shift = smallest_shift(
            w, torch.stack([gap, gap + ahead]), both.flatten(2), threat.norm, threat.lower, threat.upper
        ).view_as(both)
        of_point, of_x = norms(shift.flatten(2), threat.norm).clamp_min(1e-8)
        alpha = per_image((of_point / (of_point + of_x)).clamp_max(self.alpha_max), x)
        point, x = both + self.eta * shift
        return torch.lerp(point, x, alpha).clamp(threat.lower, threat.upper)


def fab(net: Net, x: Tensor, y: Tensor, norm: Norm = "linf", eps: float | str = "8/255", **settings: Any) -> Tensor:
    """Run FAB as a plain function: the nearest examples where they lie within the radius, else the clean images.

    Args:
        net: images [b c h w] to logits [b k], in any mode; it is left exactly as it was.
        x: clean images [b c h w] in [0, 1].
        y: labels [b].
        norm: "linf", "l2" or "l1".
        eps: radius in pixels; a fraction such as "8/255" is read as such.
        settings: those of `FAB`.

    Returns:
        Examples [b c h w].

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> x_adv = fab(net, x, y, eps="8/255", targets=2)
        >>> bool((x_adv - x).abs().max() <= 8 / 255 + 1e-6)
        True
    """
    return FAB(Threat(norm, eps), **settings)(net, x, y)
