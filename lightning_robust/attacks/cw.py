"""The l2 attack of Carlini and Wagner: gradient descent on the size of the perturbation and the margin together."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_robust.attacks import progress
from lightning_robust.attacks.adam import AdamRows
from lightning_robust.attacks.minimum_norm import MinimumNorm, Nearest, slope_at
from lightning_robust.losses import margin
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat, per_image
from lightning_robust.types import Net

_NEAR_WALL = 1 - 1e-6
_STALL_CHECKS = 10  # how often in a run a sample's cost is compared with what it was at the last comparison
_STALL_RATIO = 0.9999  # a sample stops where its cost is above this share of that


@dataclass
class _Descent(AdamRows):
    """The state of each sample's descent: position in the batch, label, weight c, variable, last cost."""

    row: Tensor
    y: Tensor
    c: Tensor
    u: Tensor
    cost: Tensor


class CW(MinimumNorm):
    """Runs Carlini and Wagner's l2 attack: Adam on a variable whose tanh is the image, for the best margin weight c.

        min over u of  ||x' - x||_2^2 + c max(confidence - margin(x'), 0),   x' = middle + half tanh(u) in the box

    where the margin is max_{j != y} logits_j - logits_y. A search by halves finds, for each sample, the least c that
    leads to an example. It is slow, and its examples are near. (Within a radius, "CW" is `PGD(loss="margin")`.)

    Args:
        threat: an l2 threat; its box, and called as an attack its radius. By default l2 with eps = 0.5.
        steps: of Adam for each c, >= 1; one forward and one backward pass each. A sample stops early
            where its cost fell by less than 0.01 % over a tenth of the steps.
        lr: Adam's learning rate, > 0.
        search_steps: how many c to try, >= 1.
        initial_c: the first c, > 0; times 10 until there is an example.
        confidence: the margin that an example must have, in logits, >= 0.

    Raises:
        ValueError: for a norm other than l2, a box that is not finite, and for a setting out of its range.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> x_adv = CW(Threat("l2", 0.5), steps=20)(net, x, y)
        >>> bool((x_adv - x).flatten(1).norm(dim=1).max() <= 0.5 + 1e-5)
        True

    Paper: Carlini & Wagner 2017 (arXiv 1608.04644), section VI.A.
    Reference: carlini/nn_robust_attacks@00be112, l2_attack.py, untargeted.
    Deviates: 1000 steps by default instead of 10000; each sample stops by its own cost, not by the batch's.
    """

    norms = ("l2",)
    default_threat = Threat("l2", 0.5)

    def __init__(
        self,
        threat: Threat | None = None,
        steps: int = 1000,
        lr: float = 0.01,
        search_steps: int = 9,
        initial_c: float = 1e-3,
        confidence: float = 0.0,
    ) -> None:
        super().__init__(threat)
        self.steps = steps
        self.lr = lr
        self.search_steps = search_steps
        self.initial_c = initial_c
        self.confidence = confidence
        for name in ("steps", "search_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}.")
        for name in ("lr", "initial_c"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}.")
        if not confidence >= 0:
            raise ValueError(f"confidence must be >= 0, got {confidence}.")

    def _refuse_other_norms(self) -> None:
        super()._refuse_other_norms()
        if math.isinf(self._half):
            raise ValueError("CW needs a finite box, into which its tanh leads: use FAB or DeepFool without one.")

    @property
    def _middle(self) -> float:
        return (self.threat.upper + self.threat.lower) / 2

    @property
    def _half(self) -> float:
        return (self.threat.upper - self.threat.lower) / 2

    def search(self, net: Net, y: Tensor, logits: Tensor, found: Nearest, rng: SampleRNG) -> None:
        """Descend with one weight c after the other; see `MinimumNorm.search`."""
        low = torch.zeros_like(found.size)
        high, c = torch.full_like(low, torch.inf), torch.full_like(low, self.initial_c)
        for _ in progress.phases(range(self.search_steps)):
            fooled = self._descend(net, y, c, found)
            high, low = torch.where(fooled, c, high), torch.where(fooled, low, c)
            c = torch.where(high < torch.inf, (low + high) / 2, 10 * c)

    def _descend(self, net: Net, y: Tensor, c: Tensor, found: Nearest) -> Tensor:
        """Descend with the weights c [b], and return for which samples [b] an example was found."""
        run, fooled = self._begin(y, c, found), torch.zeros_like(y, dtype=torch.bool)
        for k in progress.steps(self.steps):
            if not len(run.row):
                break
            x = found.x[run.row]
            x_adv = self.threat.restrict(self._image(run.u), x)
            slope, lack, wrong = self._lack(net, x_adv, run.y)
            found.take(run.row, x_adv, wrong)
            fooled[run.row[wrong]] = True
            through = self._half * (1 - torch.tanh(run.u).square())
            run.u = run.u - self.lr * run.direction((2 * (x_adv - x) + per_image(run.c, x) * slope) * through, k + 1)
            leave = found.done[run.row]
            if k % max(self.steps // _STALL_CHECKS, 1) == 0:
                cost = self.threat.distance(x_adv, x).square() + run.c * lack
                leave = leave | (cost > _STALL_RATIO * run.cost)
                run.cost = cost
            if leave.any():
                run = run[~leave]
        return fooled

    def _begin(self, y: Tensor, c: Tensor, found: Nearest) -> _Descent:
        row = found.left
        u = torch.atanh(((found.x[row] - self._middle) / self._half).clamp(-_NEAR_WALL, _NEAR_WALL))
        still = torch.zeros_like(u)
        return _Descent(row, y[row], c[row], u, torch.full_like(c[row], torch.inf), mean=still, square=still)

    def _image(self, u: Tensor) -> Tensor:
        return self._middle + self._half * torch.tanh(u)

    def _lack(self, net: Net, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the margins lack [b], its gradient with respect to the images, and which images are examples."""

        def lack(logits: Tensor, y: Tensor) -> Tensor:
            short = self.confidence - margin(logits, y)
            return short * (short >= 0)  # clamped, it would have no slope at 0, where two logits may be equal

        slope, value, wrong = slope_at(net, x_adv, y, lack)
        return slope, value, wrong & (value == 0)


def cw(net: Net, x: Tensor, y: Tensor, eps: float | str = "1/2", **settings: Any) -> Tensor:
    """Run CW as a plain function: the nearest examples where they lie within the radius, else the clean images.

    Args:
        net: images [b c h w] to logits [b k], in any mode; it is left exactly as it was.
        x: clean images [b c h w] in [0, 1].
        y: labels [b].
        eps: radius in pixels; a fraction such as "8/255" is read as such.
        settings: those of `CW`.

    Returns:
        Examples [b c h w].

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> x_adv = cw(net, x, y, eps=0.5, steps=20)
        >>> bool((x_adv - x).flatten(1).norm(dim=1).max() <= 0.5 + 1e-5)
        True
    """
    return CW(Threat("l2", eps), **settings)(net, x, y)
