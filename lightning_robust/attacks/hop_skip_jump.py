"""HopSkipJump: the nearest example by a net's decisions alone, without gradients or logits."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from lightning_robust.attacks import progress
from lightning_robust.attacks.minimum_norm import MinimumNorm, Nearest
from lightning_robust.attacks.rows import Rows
from lightning_robust.attacks.success import misclassified
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat, per_image
from lightning_robust.types import Net

Errs: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From images [b ...] and labels [b] to which of them the net errs on [b]."""

_MOST_DIRECTIONS = 10_000
"""The largest number of directions of a step."""
_HALVINGS = 25
"""Halvings of an interval at most, after which rounding in single precision lets it be no narrower."""
_NOISE_AT_ONCE = 2**22
"""Random numbers drawn for each sample at once."""


@dataclass
class _Walk(Rows):
    """The state of each sample: position in the batch, image, label, random numbers, point where the net errs, width.

    The width is that of the differences by which the next gradient is estimated.
    """

    row: Tensor
    x: Tensor
    y: Tensor
    rng: SampleRNG
    point: Tensor
    width: Tensor


class HopSkipJump(MinimumNorm):
    """Walks along the decision boundary toward the image, by estimates of its normal from decisions in random points.

    From a point on the boundary, found by bisection between the image and noise on which the net errs,

        g = sum_i (f_i - mean f) u_i,   f_i = 1 where the net errs at point + width u_i, else -1
        point <- bisection between the image and  point + step steepest(g)

    with n = `directions` sqrt(k) random unit vectors u_i in step k and a step that begins with the distance over
    sqrt(k) and is halved until the net errs. It uses nothing but the class that the net predicts, so it is a control
    for nets whose gradients or logits are not to be had or not to be trusted. A net that tells classes alone may return
    them one-hot.

    Args:
        threat: linf or l2, and a finite box; called as an attack, also the radius.
        steps: steps, >= 1.
        directions: how many random directions the first step takes, >= 1; step k takes sqrt(k) times as many. With the
            default settings a sample takes some 17,000 queries.
        starts: how many noise images are tried to begin with, >= 1: in turn noise in each value, and one colour.

    Raises:
        ValueError: for another norm, a box that is not finite, or a setting out of its range.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks.minimum_norm import minimum_norms
        >>> net = torch.nn.Linear(2, 2, bias=False)
        >>> net.weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # its boundary is where the first value is 0
        >>> attack = HopSkipJump(Threat("l2", 1.0, lower=-1.0), steps=10)
        >>> minimum_norms(attack, net, torch.tensor([[0.3, 0.1]]), torch.tensor([0])).mul(10).round()
        tensor([3.])

    Paper: Chen, Jordan & Wainwright 2020 (arXiv 1904.02144), algorithm 2.
    Reference: Jianbo-Lab/HSJA@6a91456, hsja.py, with geometric progression of the step.
    Deviates: the nearest point of the walk counts, not the last; every other start has one colour; a start that needs
        more than `starts` tries is given up, after 10,000 in the reference.
    """

    gradients = False
    norms = ("linf", "l2")

    def __init__(self, threat: Threat | None = None, steps: int = 40, directions: int = 100, starts: int = 100) -> None:
        super().__init__(threat)
        for name, value in (("steps", steps), ("directions", directions), ("starts", starts)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}.")
        self.steps = steps
        self.directions = directions
        self.starts = starts

    def _refuse_other_norms(self) -> None:
        super()._refuse_other_norms()
        if self.threat.upper - self.threat.lower == torch.inf:
            raise ValueError("HopSkipJump starts from noise in the box, which must be finite.")

    @torch.no_grad()
    def search(self, net: Net, y: Tensor, logits: Tensor, found: Nearest, rng: SampleRNG) -> None:
        """Find a point where the net errs, and walk toward the image; see `MinimumNorm.search`."""
        room = max(len(y), progress.room())

        def errs(z: Tensor, y: Tensor) -> Tensor:
            parts = zip(torch.split(z, room), torch.split(y, room), strict=True)
            return torch.cat([misclassified(net, part, net(part), labels) for part, labels in parts])

        walk = self._begun(errs, y, found, rng)
        for k in progress.steps(self.steps):
            if not len(walk.row):
                return
            way = self._normal(errs, walk, min(int(self.directions * math.sqrt(k + 1)), _MOST_DIRECTIONS))
            way = way.sign() if self.threat.norm == "linf" else way
            step = self.threat.distance(walk.point, walk.x) / math.sqrt(k + 1)
            left = torch.arange(len(walk.row), device=y.device)
            for _ in range(_HALVINGS):
                ahead = self._boxed(walk.point[left] + per_image(step[left], way) * way[left], walk.x[left])
                wrong = errs(ahead, walk.y[left])
                walk.point[left[wrong]] = ahead[wrong]
                left = left[~wrong]
                if not len(left):
                    break
                step[left] /= 2
            self._to_boundary(errs, walk)
            found.take(walk.row, walk.point, torch.ones_like(walk.row, dtype=torch.bool))
            if (done := found.done[walk.row]).any():
                walk = walk[~done]

    def _begun(self, errs: Errs, y: Tensor, found: Nearest, rng: SampleRNG) -> _Walk:
        """Find noise on which the net errs, and the boundary between it and the image."""
        row = found.left
        x, y, tries = found.x[row], y[row], rng[row].fork(0)
        point, wanting = x.clone(), torch.ones_like(row, dtype=torch.bool)
        for k in range(self.starts):
            colour = x.new_empty(*x.shape[:2], *[1] * (x.dim() - 2)) if x.dim() > 2 else x[:, :1]
            noise = tries.uniform(x if k % 2 == 0 else colour).expand_as(x)
            noise = self._boxed(self.threat.lower + (self.threat.upper - self.threat.lower) * noise, x)
            left = torch.nonzero(wanting)[:, 0]
            wrong = errs(noise[left], y[left])
            point[left[wrong]] = noise[left[wrong]]
            wanting[left[wrong]] = False
            if not wanting.any():
                break
        walk = _Walk(row, x, y, rng[row].fork(1), point, torch.empty_like(found.size[row]))[~wanting]
        if len(walk.row):
            self._to_boundary(errs, walk)
            walk.width = torch.full_like(walk.width, 0.1 * (self.threat.upper - self.threat.lower))
            found.take(walk.row, walk.point, torch.ones_like(walk.row, dtype=torch.bool))
        return walk

    def _normal(self, errs: Errs, walk: _Walk, count: int) -> Tensor:
        """Estimate the unit normal [b ...] of the boundary from decisions at so many points around each."""
        x, d = walk.point, walk.point[0].numel()
        total, along, erring = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(walk.width)
        at_once = max(1, min(count, _NOISE_AT_ONCE // d))
        for n in [at_once] * (count // at_once) + [count % at_once] * (count % at_once > 0):
            shape = x.new_empty(len(x), n, *x.shape[1:])
            u = walk.rng.normal(shape) if self.threat.norm == "l2" else 2 * walk.rng.uniform(shape) - 1
            u = u / u.flatten(2).norm(dim=2).view(len(x), n, *[1] * (x.dim() - 1))
            width, centre = per_image(walk.width, x)[:, None], x[:, None].expand_as(u).flatten(0, 1)
            z = self._boxed((x[:, None] + width * u).flatten(0, 1), centre).view_as(u)
            u = (z - x[:, None]) / width
            wrong = errs(z.flatten(0, 1), walk.y.repeat_interleave(n)).view(len(x), n, *[1] * (x.dim() - 1))
            erring += wrong.flatten(1).sum(1)
            total, along = total + u.sum(1), along + torch.where(wrong, u, -u).sum(1)
        mean = per_image(2 * erring / count - 1, x)
        normal = torch.where(mean.abs() == 1, mean * total, along - mean * total)
        return normal / per_image(normal.flatten(1).norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny), x)

    def _to_boundary(self, errs: Errs, walk: _Walk) -> None:
        """Move the points toward the image by bisection, to where the net barely errs, and set the next width."""
        d, linf = walk.x[0].numel(), self.threat.norm == "linf"
        theta = d**-2 if linf else d**-1.5
        distance = self.threat.distance(walk.point, walk.x)
        high = distance.clone() if linf else torch.ones_like(distance)
        low, close = torch.zeros_like(high), theta * distance.clamp_max(1) if linf else theta * torch.ones_like(high)
        for _ in range(_HALVINGS):
            wide = torch.nonzero(high - low > close)[:, 0]
            if not len(wide):
                break
            middle = (low + high)[wide] / 2
            wrong = errs(self._between(walk.x[wide], walk.point[wide], middle), walk.y[wide])
            low[wide], high[wide] = torch.where(wrong, low[wide], middle), torch.where(wrong, middle, high[wide])
        walk.point = self._between(walk.x, walk.point, high)
        walk.width = distance / d  # sqrt(d) theta in l2, d theta in linf, times the distance

    def _between(self, x: Tensor, point: Tensor, share: Tensor) -> Tensor:
        """Return points between the images and these: in l2 a share of the way, in linf at a distance."""
        share = per_image(share, x)
        if self.threat.norm == "linf":
            return torch.minimum(torch.maximum(point, x - share), x + share)
        return torch.lerp(x, point, share)

    def _boxed(self, z: Tensor, x: Tensor) -> Tensor:
        return self.threat.restrict(z.clamp(self.threat.lower, self.threat.upper), x)
