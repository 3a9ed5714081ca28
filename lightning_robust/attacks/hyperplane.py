"""The decision boundary of a linearised net, and the smallest perturbation within the box that reaches it."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_robust.losses import at_least_fp32, runners_up
from lightning_robust.runtime.gradients import input_gradient, input_gradients
from lightning_robust.runtime.precision import full_precision
from lightning_robust.threat import Norm, norms
from lightning_robust.types import Net

DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}

_ROUNDINGS = 8
"""How many roundings of a pixel a step across the boundary is at least long."""


def nearest_boundary(net: Net, x: Tensor, y: Tensor, wanted: Tensor | int, norm: Norm) -> tuple[Tensor, Tensor]:
    """Return the nearest decision boundary of the net linearised at x.

    Args:
        net: images to logits.
        x: images [b c h w].
        y: labels [b].
        wanted: the classes [b m] whose boundary to the label is compared, or how many of the most probable at x; each
            takes one backward pass.
        norm: in which the hyperplanes' distances are compared.

    Returns:
        The hyperplanes' normals w [b d], and the gaps [b]: shifts d with w.d = gap reach them.
    """

    def leads(z: Tensor) -> Tensor:
        logits = at_least_fp32(net(z))
        others = runners_up(logits, y, wanted) if isinstance(wanted, int) else wanted
        return logits.gather(1, others) - logits.gather(1, y[:, None])

    if isinstance(wanted, Tensor) and wanted.shape[1] == 1:  # one backward pass, so compiled nets need not run eagerly
        grad, value = input_gradient(lambda z: leads(z)[:, 0], x)
        return grad.flatten(1), -value
    grads, values = input_gradients(leads, x)
    grads = grads.flatten(2)
    slopes = norms(grads, DUAL[norm]).clamp_min(torch.finfo(x.dtype).tiny)
    each, nearest = torch.arange(len(x), device=x.device), (values.abs() / slopes).argmin(1)
    return grads[each, nearest], -values[each, nearest]


def nearest_classes(net: Net, x: Tensor, y: Tensor, candidates: int, norm: Norm) -> Tensor:
    """Return classes [b m] other than the label, that whose boundary is nearest for the linearised net first.

    Args:
        net: images to logits.
        x: images [b c h w].
        y: labels [b].
        candidates: how many of the most probable classes to order; each takes one backward pass.
        norm: in which the distances are measured.
    """
    classes = torch.empty(0)

    def leads(z: Tensor) -> Tensor:
        nonlocal classes
        logits = at_least_fp32(net(z))
        classes = runners_up(logits, y, candidates)
        return logits.gather(1, classes) - logits.gather(1, y[:, None])

    grads, values = input_gradients(leads, x)
    slopes = norms(grads.flatten(2), DUAL[norm]).clamp_min(torch.finfo(x.dtype).tiny)
    repeated = classes[:, 1:] == classes[:, :1]  # in place of masked classes
    distance = -values / slopes
    distance[:, 1:][repeated] = torch.inf
    order = distance.argsort(1)
    found = classes.gather(1, order)
    return torch.where(distance.gather(1, order) < torch.inf, found, found[:, :1])


def least_gap(w: Tensor, x: Tensor, norm: Norm) -> Tensor:
    """Return the gaps [b] that rounding hides: a shift across less of them may leave x and the logits as they are.

    Args:
        w: the hyperplanes' normals [b d].
        x: images [b c h w].
        norm: "linf", "l2" or "l1".
    """
    return _ROUNDINGS * torch.finfo(x.dtype).eps * norms(w, DUAL[norm]) * norms(x.flatten(1), norm).clamp_min(1)


def smallest_shift(w: Tensor, gap: Tensor, x: Tensor, norm: Norm, lower: float, upper: float) -> Tensor:
    """Return the shift d of least norm with w.d = gap that keeps x + d in the box, or the nearest to it.

    Every pixel moves the way that closes the gap, as far as the norm suggests and the wall allows: by t in linf, by
    t |w| in l2, with one t for all; in l1 those with the largest |w| go to the wall, one after the other.

    Args:
        w: the hyperplanes' normals [... d].
        gap: what is to be gained [...].
        x: points in the box [... d]; the leading sizes of the three broadcast.
        norm: "linf", "l2" or "l1".
        lower: least pixel value.
        upper: greatest pixel value.

    Reference: computes the same shift as fra31/auto-attack@a392200, autoattack/fab_projections.py.
    """
    with full_precision(x):  # products of vectors are among what autocast would round
        way = w.sign() * gap.sign()[..., None]
        weight = w.abs()
        greatest = weight.amax(-1).clamp_min(torch.finfo(w.dtype).tiny)
        weight, gap = weight / greatest[..., None], gap.abs() / greatest
        room = torch.where(way > 0, upper - x, x - lower).masked_fill(weight == 0, 0)  # an infinite box has inf room
        if norm == "l1":
            return way * _greedy(weight, gap, room)
        pace = torch.ones_like(weight) if norm == "linf" else weight.clamp_min(torch.finfo(w.dtype).eps)
        return way * pace * _common(weight * pace, gap, room / pace)


def _common(slope: Tensor, gap: Tensor, stop: Tensor) -> Tensor:
    """Return `min(t, stop)`, where t is chosen so that the product of `min(t, stop)` with `slope` is `gap`.

    The product grows with t along straight pieces that get flatter at each stop, so Newton's steps never go too far,
    and they end at the first that passes no further stop: after fewer than ten, as a rule.
    """
    t, moving, before = torch.zeros_like(gap), torch.empty_like(stop), torch.full_like(gap, torch.inf)
    while True:
        moved = torch.minimum(stop, t[..., None])
        torch.gt(stop, t[..., None], out=moving)  # as floats at once: masks are slow on CPUs
        pull = torch.linalg.vecdot(moving, slope)
        further = pull < before  # where not, it has arrived, and stays, whatever the rest of the batch needs
        if not further.any():
            return moved
        step = (gap - torch.linalg.vecdot(moved, slope)) / pull.clamp_min(torch.finfo(gap.dtype).tiny)
        t, before = torch.where(further, t + step.clamp_min(0), t), pull


def _greedy(weight: Tensor, gap: Tensor, room: Tensor) -> Tensor:
    """Return how far each pixel moves: by its `room`, those of the largest `weight` first, until the gap is closed."""
    weight, order = weight.sort(dim=-1, descending=True)
    order = order.expand_as(room)
    room = room.gather(-1, order)
    gained = (weight * room).cumsum(-1)
    left = gap[..., None] - pad(gained[..., :-1], (1, 0))
    moves = torch.minimum((left / weight.clamp_min(torch.finfo(weight.dtype).tiny)).clamp_min(0), room)
    return torch.zeros_like(moves).scatter(-1, order, moves)
