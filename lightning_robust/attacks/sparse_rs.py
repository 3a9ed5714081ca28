"""Sparse-RS: a random search over which values change, that needs no gradient."""

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_robust.attacks import progress
from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.call import Call
from lightning_robust.attacks.rows import Rows
from lightning_robust.attacks.success import misclassified
from lightning_robust.losses import margin
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from lightning_robust.types import Net

_LAST_QUERY = (0, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_DIVISORS = (1, 2, 4, 5, 6, 8, 10, 12, 15, 20)
"""By what the first share is divided up to each of these queries, and after the last; for a budget of 10000."""


@dataclass
class _Standing(Rows):
    """The samples that are not broken yet, as vectors [b d], and the state of their search."""

    row: Tensor  # position in the batch
    x: Tensor
    y: Tensor
    k: Tensor  # how many values may change [b]
    point: Tensor
    changed: Tensor  # which values are changed [b d]
    value: Tensor
    rng: SampleRNG


class SparseRS(Attack):
    """Runs a random search in l0 with forward passes alone, which breaks nets whose gradients mislead other attacks.

    As many values as the radius allows are set to an end of the box, which ones and to which end at random. A query
    takes back a share of these changes, makes as many others, and is kept if the objective rises. The share falls as
    the search goes on, down to a single value. A value that lies at an end of the box moves to the other.

    A sample leaves the batch once it is misclassified; of the others the point with the highest objective counts, the
    clean image included. Every sample has its own random numbers, so nothing depends on the batch it is in.

    Args:
        threat: l0, and a finite box; the radius counts the values that change. By default l0 with eps = 24.
        queries: forward passes for each sample, the start's included and the clean image's not, >= 1.
        share: the first share of the changed values that a query replaces, in (0, 1].

    Raises:
        ValueError: for another norm, a box that is not finite, or a setting out of its range.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(4, 2, bias=False)
        >>> net.weight.data = torch.tensor([[0.0, 0.0, 0.0, 0.0], [9.0, -1.0, -1.0, -1.0]])
        >>> x = torch.full((1, 4), 0.3)
        >>> SparseRS(Threat("l0", 1), queries=50)(net, x, torch.tensor([1]))
        tensor([[0.0000, 0.3000, 0.3000, 0.3000]])

    Paper: Croce et al. 2022 (arXiv 2006.12834), algorithms 1 and 2, and the schedule of appendix A.
    Reference: fra31/sparse-rs@21d8759, rs_attacks.py, norm "L0".
    Deviates: the radius counts values, the reference's pixels with all their channels. Positions are drawn for each
        sample, there once for the batch. Values at an end of the box never stay, there by chance.
    """

    gradients = False
    norms = ("l0",)
    default_threat = Threat("l0", 24)
    uses = ("objective",)

    def __init__(self, threat: Threat | None = None, queries: int = 5000, share: float = 0.3) -> None:
        super().__init__(threat)
        if queries < 1:
            raise ValueError(f"queries must be >= 1, got {queries}.")
        if not 0 < share <= 1:
            raise ValueError(f"share must be in (0, 1], got {share}.")
        self.queries = queries
        self.share = share
        self._refuse_other_norms()

    def _refuse_other_norms(self) -> None:
        super()._refuse_other_norms()
        if self.threat.upper - self.threat.lower == torch.inf:
            raise ValueError("SparseRS sets values to the ends of the box, which must be finite.")

    @torch.no_grad()
    def _perturb(self, net: Net, x: Tensor, target: Tensor, call: Call) -> Tensor:
        """Search; what is misclassified leaves at once."""
        objective = call.objective or margin
        shape = x.shape[1:]
        logits = net(x)
        best = objective(logits, target)
        found, row = x.flatten(1).clone(), torch.nonzero(~misclassified(net, x, logits, target))[:, 0]
        start, rng = found[row], call.rng[row]
        outside = self.threat.restrict(torch.zeros_like(x[:1]), torch.ones_like(x[:1])).flatten(1).bool()
        k = call.eps.flatten()[row].floor().clamp_max(int((~outside).sum()))
        changed = _first(rng.uniform(start).masked_fill(outside, 2), k)
        point = torch.where(changed, self._extremes(start, rng), start)
        now = _Standing(row, start, target[row], k, start, changed, torch.full_like(best[row], -torch.inf), rng)
        for query in progress.steps(self.queries):
            if not len(now.row):
                break
            logits = net(point.view(-1, *shape))
            wrong = misclassified(net, point.view(-1, *shape), logits, now.y)
            found[now.row[wrong]] = point[wrong]
            value = objective(logits, now.y)
            better = (value > now.value)[:, None]
            now.point, now.changed = torch.where(better, point, now.point), torch.where(better, changed, now.changed)
            now.value = torch.maximum(now.value, value)
            if wrong.any():
                now = now[~wrong]
            point, changed = self._moved(now, query + 1, outside)
        higher = now.value > best[now.row]
        found[now.row[higher]] = now.point[higher]
        return found.view_as(x)

    def _moved(self, now: _Standing, query: int, outside: Tensor) -> tuple[Tensor, Tensor]:
        """Take back some of the changes and make as many others: the new points, and which of their values changed."""
        count = (self._share(query) * now.k).floor().clamp_min(1)
        count = torch.minimum(count, torch.minimum(now.k, (~outside).sum() - now.k))
        order = now.rng.uniform(now.x)
        back = now.changed & _first(order.masked_fill(~now.changed, 2), count)
        new = _first(order.masked_fill(now.changed | outside, 2), count)
        point = torch.where(back, now.x, torch.where(new, self._extremes(now.x, now.rng), now.point))
        return point, (now.changed & ~back) | new

    def _extremes(self, x: Tensor, rng: SampleRNG) -> Tensor:
        """Draw an end of the box for each value; for one that lies at an end, the other."""
        lower, upper = self.threat.lower, self.threat.upper
        up = (rng.uniform(x) < 0.5) & (x < upper) | (x <= lower)
        return torch.where(up, upper, lower).to(x)

    def _share(self, query: int) -> float:
        """The share of the changed values that a query replaces."""
        return self.share / _DIVISORS[bisect_left(_LAST_QUERY, query * 10000 // self.queries)]


def _first(order: Tensor, count: Tensor) -> Tensor:
    """Mark the smallest values of each row [b d], as many as its count [b]."""
    most = int(count.max()) if len(count) else 0
    smallest = order.topk(most, dim=1, largest=False).indices
    taken = torch.arange(most, device=order.device) < count[:, None]
    return torch.zeros_like(order, dtype=torch.bool).scatter(1, smallest, taken)
