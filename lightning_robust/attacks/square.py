"""Square Attack: a random search that changes one window of the image at a time and needs no gradient."""

import math
from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_robust.attacks import progress
from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.call import Call
from lightning_robust.attacks.rows import Rows
from lightning_robust.attacks.success import misclassified
from lightning_robust.losses import margin
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Norm, Region, Threat
from lightning_robust.types import Net, Objective

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After these queries the window's share of the image is halved, for a budget of 10000."""

BLOCK = 100
"""Queries whose random numbers are drawn at once."""


@dataclass
class _Standing(Rows):
    """The samples that are not broken yet, and the state of their search."""

    row: Tensor  # position in the batch
    x: Tensor
    y: Tensor
    eps: Tensor  # [b 1 1 1]
    best: Tensor  # the highest objective of the clean image and the earlier restarts
    x_adv: Tensor
    value: Tensor
    rng: SampleRNG

    def keep(self, x_new: Tensor, value: Tensor) -> None:
        """Keep the points that raise the objective."""
        better = torch.nonzero(value > self.value)[:, 0]
        self.x_adv.index_copy_(0, better, x_new[better])
        self.value.index_copy_(0, better, value[better])


@dataclass
class _Choices(Rows):
    """The random choices for a block of queries whose windows have the same size."""

    side: int
    since: int  # the block's first query
    corners: Tensor  # [b n 2], where two windows begin in the flat image
    turned: Tensor  # [b n]
    signs: Tensor  # [b n c 1]

    @classmethod
    def draw(cls, x: Tensor, rng: SampleRNG, side: int, since: int, within: Region) -> "_Choices":
        b, c, _, w = x.shape
        top, bottom, left, right = within
        numbers = rng.uniform(x.new_empty((b, BLOCK, 5 + c), dtype=torch.float32))
        down = top + (numbers[..., :2] * (bottom - top - side + 1)).long()
        across = left + (numbers[..., 2:4] * (right - left - side + 1)).long()
        signs = ((numbers[..., 5:, None] < 0.5) * 2 - 1).to(x)
        return cls(side, since, down * w + across, numbers[..., 4] < 0.5, signs)

    def window(self, which: int, query: int, x: Tensor) -> Tensor:
        """Return the pixel positions of a query's first or second window in the flat images [b c h*w]."""
        corner = self.corners[:, query - self.since, which, None]
        return (corner + offsets(self.side, x.shape[3], x.device))[:, None].expand(-1, x.shape[1], -1)


class Square(Attack):
    """Runs a random search with forward passes alone, which breaks nets whose gradients mislead other attacks.

    A query changes a square window of each image and keeps the change if the objective rises. linf: the window's
    channels move to +eps or -eps, from a start of vertical stripes. l2 and l1: the perturbation of a second window is
    taken away and spent on the first, in the shape of two opposite peaks, from a start of tiles of that shape.
    Windows shrink as the search goes on. Input that is no image [b c h w] is searched as one of the same values: of
    [b d] and [b c d] the last dimension is cut into rows, as square as its divisors allow, and the dimensions before
    the last of a volume [b c d h w] become the rows.

    A sample leaves the batch once it is misclassified; of the others the point with the highest objective counts, the
    clean image included. Every sample has its own windows and signs, so nothing depends on the batch it is in.

    Args:
        threat: the perturbations allowed.
        queries: forward passes for each sample in each restart, the start's included and the clean image's not, >= 1.
        p_init: share of the image that the first windows cover, in (0, 1].
        restarts: independent searches, >= 1; those after the first only for samples that still stand.
        rescale: shrink the windows as fast as fits the number of queries, not as fits 10000.

    Raises:
        ValueError: for less than one query or restart, or a p_init outside (0, 1].

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> x_adv = Square(Threat("linf", "8/255"), queries=20)(net, x, y)
        >>> bool((x_adv - x).abs().max() <= 8 / 255 + 1e-6)
        True

    Paper: Andriushchenko et al. 2020 (arXiv 1912.00049), algorithms 1-3; l1: Croce & Hein 2021 (arXiv 2103.01208).
    Reference: fra31/auto-attack@a392200.
    Deviates: as in the paper's code (max-andr/square-attack@a9d0ef3), every sample has windows and signs of its own and
    no linf query is spent on a window that would change nothing. Unlike in either, windows and tiles may touch the
    image's last row and column: after 300 queries on 8 x 8 digits that leaves robust accuracy 3 to 29 points lower,
    on 32 x 32 pixels it makes no measurable difference.
    """

    gradients = False
    uses = ("objective", "start")

    def __init__(
        self,
        threat: Threat | None = None,
        queries: int = 5000,
        p_init: float = 0.8,
        restarts: int = 1,
        rescale: bool = False,
    ) -> None:
        super().__init__(threat)
        self.queries = queries
        self.p_init = p_init
        self.restarts = restarts
        self.rescale = rescale
        if queries < 1:
            raise ValueError(f"queries must be >= 1, got {queries}.")
        if not 0 < p_init <= 1:
            raise ValueError(f"p_init must be in (0, 1], got {p_init}.")
        if restarts < 1:
            raise ValueError(f"restarts must be >= 1, got {restarts}.")

    @torch.no_grad()
    def _perturb(self, net: Net, x: Tensor, target: Tensor, call: Call) -> Tensor:
        """Search from each restart; what is misclassified leaves at once."""
        if x.dim() != 4:
            as_given = x.shape[1:]
            call = replace(
                call,
                eps=call.eps.view(-1, 1, 1, 1),
                start=None if call.start is None else as_images(call.start),
            )
            found = self._perturb(lambda z: net(z.view(-1, *as_given)), as_images(x), target, call)
            return found.view_as(x)
        objective = call.objective or margin
        logits = net(x)
        found = x.clone()
        row = torch.arange(len(x), device=x.device)
        value = objective(logits, target)
        right = ~misclassified(net, x, logits, target)
        now = _Standing(row, x, target, call.eps, value, x, value, call.rng)[right]
        for restart in progress.phases(range(self.restarts)):
            if not len(now.row):
                break
            now.rng = call.rng.fork(restart)[now.row]
            now.value = torch.full_like(now.best, -torch.inf)
            now.x_adv = self._begin(now, call.start if restart == 0 else None)
            now = self._search(net, objective, now, found)
            better = now.value > now.best
            found[now.row[better]] = now.x_adv[better]
            now.best = torch.maximum(now.value, now.best)
        return found

    def _begin(self, now: _Standing, start: Tensor | None) -> Tensor:
        if start is not None:
            return start[now.row]
        drawn = stripes if self.threat.norm == "linf" else tiles
        return drawn(now.x, self.threat, now.eps, now.rng)

    def _search(self, net: Net, objective: Objective, now: _Standing, found: Tensor) -> _Standing:
        """Search once from `now.x_adv`, write the samples that break into `found`, and return those that stand."""
        changed = repainted if self.threat.norm == "linf" else moved
        within = self.threat.window(now.x)
        choices = _Choices.draw(now.x, now.rng, self._side(0, within), 0, within)
        x_new = now.x_adv.clone()
        for k in progress.steps(self.queries):
            logits = net(x_new)
            wrong = misclassified(net, x_new, logits, now.y)
            now.keep(x_new, objective(logits, now.y))
            if wrong.any():
                found[now.row[wrong]] = x_new[wrong]
                now, choices = now[~wrong], choices[~wrong]
                if not len(now.row):
                    break
            side = self._side(k, within)
            if side != choices.side or k == choices.since + BLOCK:
                choices = _Choices.draw(now.x, now.rng, side, k, within)
            x_new = changed(now, choices, k, self.threat)
        return now

    def _side(self, k: int, within: Region) -> int:
        """Return the side length in pixels of query k's window, which lies within a region."""
        top, bottom, left, right = within
        h, w = bottom - top, right - left
        k = k * 10000 // self.queries if self.rescale else k
        side = round(math.sqrt(self.p_init / 2 ** bisect_left(HALVINGS, k) * h * w))
        side = max(side, 1) if self.threat.norm == "linf" else max(side + 1 - side % 2, 3)
        return min(side, h, w)


def as_images(x: Tensor) -> Tensor:
    """Return input of any shape [b ...] as images [b c h w] with the same values.

    Example:
        >>> [as_images(torch.zeros(2, *shape)).shape[1:] for shape in ((12,), (3, 7), (3, 5, 4, 4))]
        [torch.Size([1, 3, 4]), torch.Size([3, 1, 7]), torch.Size([3, 20, 4])]
    """
    channels, d = x.shape[1] if x.dim() > 2 else 1, x.shape[-1]
    if x.dim() > 3:
        return x.reshape(len(x), channels, math.prod(x.shape[2:-1]), d)
    rows = max(h for h in range(1, math.isqrt(d) + 1) if d % h == 0)
    return x.reshape(len(x), channels, rows, d // rows)


def stripes(x: Tensor, threat: Threat, eps: Tensor, rng: SampleRNG) -> Tensor:
    """Return the start for linf: vertical stripes, in each channel at +eps or -eps."""
    up = rng.uniform(x.new_empty((*x.shape[:2], 1, x.shape[3]), dtype=torch.float32)) < 0.5
    return threat.restrict((x + torch.where(up, eps, -eps)).clamp(threat.lower, threat.upper), x)


def tiles(x: Tensor, threat: Threat, eps: Tensor, rng: SampleRNG) -> Tensor:
    """Return the start for l2 and l1: tiles of twin peaks, lying or upright, in each channel of either sign."""
    b, c = x.shape[:2]
    first, bottom, begin, right = threat.window(x)
    h, w = bottom - first, right - begin
    side = max(min(h, w) // 5, 1)
    rows, columns = h // side, w // side
    coin = rng.uniform(x.new_empty((b, c + 1, rows, columns), dtype=torch.float32)) < 0.5
    coin = coin.repeat_interleave(side, 2).repeat_interleave(side, 3)
    one, other = twin_peaks(side, threat.norm, x.dtype, x.device).view(2, side, side).repeat(1, rows, columns)
    delta = torch.where(coin[:, :1], one, other) * torch.where(coin[:, 1:], 1, -1)
    top, left = (h - rows * side) // 2, (w - columns * side) // 2
    delta = F.pad(delta, (left, w - columns * side - left, top, h - rows * side - top))
    delta = F.pad(delta, (begin, x.shape[3] - right, first, x.shape[2] - bottom))
    return threat.project(x + (delta * eps if threat.norm == "l2" else delta), x, eps)


def repainted(now: _Standing, choices: _Choices, k: int, threat: Threat) -> Tensor:
    """Return the images with a window at +eps or -eps, one sign a channel; the opposite signs if it is so already."""
    at, step = choices.window(0, k, now.x), choices.signs[:, k - choices.since] * now.eps[..., 0]
    x, x_adv = now.x.flatten(2).gather(2, at), now.x_adv.flatten(2)
    same = (x_adv.gather(2, at) == (x + step).clamp_(threat.lower, threat.upper)).flatten(1).all(1)
    new = (x + torch.where(same[:, None, None], -step, step)).clamp_(threat.lower, threat.upper)
    return x_adv.scatter(2, at, new).view_as(now.x)


def moved(now: _Standing, choices: _Choices, k: int, threat: Threat) -> Tensor:
    """Return the images with twin peaks in a window, paid for by a second window and the unspent part of the norm."""
    c = now.x.shape[1]
    order = 2 if threat.norm == "l2" else 1
    i = k - choices.since
    one = choices.window(0, k, now.x)
    other = choices.window(1, k, now.x)
    delta = (now.x_adv - now.x).flatten(2)
    unspent = (now.eps[..., 0] ** order - (length(delta, order) ** order).sum(1, keepdim=True)).clamp_min_(0)
    old = delta.gather(2, one)
    delta.scatter_(2, one, 0)
    size = length(old, order)
    budget = unspent / c + size**order + length(delta.gather(2, other), order) ** order
    delta.scatter_(2, other, 0)
    peaks = twin_peaks(choices.side, threat.norm, delta.dtype, delta.device)[choices.turned[:, i].long(), None]
    new = peaks * choices.signs[:, i] + old / size
    new = new / length(new, order) * (budget.sqrt() if order == 2 else c * budget)
    return threat.project(now.x + delta.scatter_(2, one, new).view_as(now.x), now.x, now.eps)


def length(delta: Tensor, order: int) -> Tensor:
    """Return the norm of each channel [b c 1], clamped to be positive."""
    size: Tensor = torch.linalg.vector_norm(delta, order, dim=2, keepdim=True)
    return size.clamp_min_(torch.finfo(delta.dtype).tiny)


@lru_cache(32)
def offsets(side: int, w: int, device: torch.device) -> Tensor:
    """Return the positions of a window's pixels in a flat image of width w, counted from the window's corner."""
    step = torch.arange(side, device=device)
    return (step[:, None] * w + step).flatten()


@lru_cache(32)
def twin_peaks(side: int, norm: Norm, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return two pyramids of opposite sign and norm 1: one above the other, and side by side [2 side*side]."""
    decay, order = (2, 2) if norm == "l2" else (4, 1)
    rings = torch.arange(1, side // 2 + 2).double() ** -decay
    heights = rings.flip(0).cumsum(0).flip(0)
    halves, across = [], (torch.arange(side) - side // 2).abs()
    for rows, sign in ((side // 2, 1), (side - side // 2, -1)):
        down = (torch.arange(rows) - rows // 2).abs()
        peak = heights[torch.maximum(down[:, None], across)]
        halves.append(sign * peak / torch.linalg.vector_norm(peak, order))
    peaks = torch.cat(halves)
    peaks /= torch.linalg.vector_norm(peaks, order)
    return torch.stack([peaks, peaks.T]).flatten(1).to(device, dtype)


def square(net: Net, x: Tensor, y: Tensor, norm: Norm = "linf", eps: float | str = "8/255", **settings: Any) -> Tensor:
    """Run Square Attack as a plain function.

    Args:
        net: images [b c h w] to logits [b k], in any mode; it is left exactly as it was.
        x: clean images [b c h w] in [0, 1].
        y: labels [b].
        norm: "linf", "l2" or "l1".
        eps: radius in pixels; a fraction such as "8/255" is read as such.
        settings: those of `Square`.

    Returns:
        Examples [b c h w].

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> x_adv = square(net, x, y, eps="8/255", queries=20)
        >>> bool((x_adv - x).abs().max() <= 8 / 255 + 1e-6)
        True
    """
    return Square(Threat(norm, eps), **settings)(net, x, y)
