"""Learning-rate schedules, torch's and two more, which last as long as the run where their length is left out."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor
from torch.optim import Optimizer, lr_scheduler

from lightning_robust.parts.follows_run import FollowsRun, required_length
from lightning_robust.parts.parameter_groups import RATE
from lightning_robust.utils.private_apis import ONE_CYCLE_PHASES


class CosineAnnealingLR(FollowsRun, lr_scheduler.CosineAnnealingLR):
    """Cosine annealing of torch's `CosineAnnealingLR`, by default over the whole run.

    Args:
        optimizer: optimizer whose learning rates are set.
        T_max: epochs or steps until the rate is lowest; by default the length of the run.
        eta_min: the lowest rate.
        last_epoch: as for torch's class.

    Raises:
        ValueError: if `T_max` is left out and the length of the run is not known.

    Example:
        >>> import torch
        >>> from lightning_robust.parts.follows_run import run_length
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> with run_length(lambda: 40):  # as a Defense does
        ...     CosineAnnealingLR(optimizer).T_max
        40
    """

    lengths = ("T_max",)

    def __init__(
        self, optimizer: Optimizer, T_max: int | None = None, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        T_max = required_length(self, "T_max") if T_max is None else T_max
        super().__init__(optimizer, T_max, eta_min, last_epoch)


class WarmupCosineLR(FollowsRun):
    """Linear warm-up, then cosine annealing, together by default over the whole run.

    At epoch or step t of T, with a warm-up of w, the rate of a group with rate r is r (s + (1 - s) t / w) for t < w,
    and eta_min + (r - eta_min) (1 + cos(pi (t - w) / (T - w))) / 2 from then on.

    Args:
        optimizer: optimizer whose learning rates are set.
        warmup: w, the epochs or steps of the warm-up as an integer, or a share of T below 1, which is not rounded.
        start_factor: s, the factor of the rate at the start, in [0, 1].
        eta_min: the lowest rate; that of a layer is smaller by its factor (`ParameterGroups`).
        T_max: T, epochs or steps until the rate is lowest; by default the length of the run.
        last_epoch: as for torch's classes.

    Raises:
        ValueError: for a warm-up or factor out of range, or if `T_max` is left out and the run's length is not known.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = WarmupCosineLR(optimizer, warmup=2, start_factor=0.5, T_max=4)
        >>> for _ in range(5):
        ...     print(round(schedule.get_last_lr()[0], 3), end=" ")
        ...     optimizer.step(); schedule.step()
        0.5 0.75 1.0 0.5 0.0

    Reference: nmndeep/revisiting-at@d7166c0, `get_cosine_lr`, is warmup=20, eta_min=5e-6 by epochs.
    Deviates: none at whole epochs; within an epoch the authors interpolate linearly, here the rate follows the curve.
    """

    lengths = ("T_max",)

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int | float = 0,
        start_factor: float = 1e-4,
        eta_min: float = 0.0,
        T_max: int | None = None,
        last_epoch: int = -1,
    ) -> None:
        if warmup < 0 or (isinstance(warmup, float) and warmup >= 1):
            raise ValueError(f"warmup is a whole number, or a share of the run below 1, got {warmup}.")
        if not 0 <= start_factor <= 1:
            raise ValueError(f"start_factor must be in [0, 1], got {start_factor}.")
        self.T_max = required_length(self, "T_max") if T_max is None else T_max
        self.warmup, self.start_factor, self.eta_min = warmup, start_factor, eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each group."""
        t = min(self.last_epoch, self.T_max)
        w = self.warmup * self.T_max if isinstance(self.warmup, float) else self.warmup
        if t < w:
            return [base * (self.start_factor + (1 - self.start_factor) * t / w) for base in self.base_lrs]
        height = (1 + math.cos(math.pi * (t - w) / ((self.T_max - w) or 1.0))) / 2
        lowest = [self.eta_min * group.get(RATE, 1.0) for group in self.optimizer.param_groups]
        return [low + (base - low) * height for low, base in zip(lowest, self.base_lrs, strict=True)]


class PiecewiseLinearLR(FollowsRun):
    """Rates that go linearly from one milestone to the next, such as the cycles of fast adversarial training.

    Args:
        optimizer: optimizer whose learning rates are set.
        milestones: epochs or steps at which the rate is known, as integers, or all as shares of the run in [0, 1], in
            increasing order. One that stands twice is a jump from the first of its factors to the second.
        factors: the factor of the rate at each milestone, >= 0. It stays what it is before the first and after the
            last.
        last_epoch: as for torch's classes.

    Raises:
        ValueError: for milestones that fall, shares out of range, integers beside shares, another number of factors or
            negative ones; for shares if the length of the run is not known.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = PiecewiseLinearLR(optimizer, [0, 2, 4], [0.0, 1.0, 0.0])
        >>> for _ in range(5):
        ...     print(schedule.get_last_lr()[0], end=" ")
        ...     optimizer.step(); schedule.step()
        0.0 0.5 1.0 0.5 0.0

    Reference: locuslab/fast_adversarial@54f7287, which interpolates step by step.
    Deviates: none known.
    """

    lengths = ("milestones",)

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[int | float],
        factors: Sequence[float],
        last_epoch: int = -1,
    ) -> None:
        shares = [isinstance(milestone, float) for milestone in milestones]
        if any(shares) and not (all(shares) and min(milestones) >= 0 and max(milestones) <= 1):
            raise ValueError(f"Milestones are whole numbers or all shares of the run in [0, 1], got {[*milestones]}.")
        if len(factors) != len(milestones) or not milestones or min(factors) < 0:
            raise ValueError(f"Each milestone needs a factor >= 0, got {[*milestones]} and {[*factors]}.")
        if any(a > b for a, b in pairwise(milestones)):
            raise ValueError(f"Milestones must increase, got {[*milestones]}.")
        length = required_length(self, "milestones") if any(shares) else 1
        self.milestones = [milestone * length for milestone in milestones]
        self.factors = [*factors]
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each group."""
        return [base * self._factor(self.last_epoch) for base in self.base_lrs]

    def _factor(self, t: int) -> float:
        after = bisect_right(self.milestones, t)
        if after in (0, len(self.milestones)):
            return self.factors[0 if after == 0 else -1]
        start, end = self.milestones[after - 1 : after + 1]
        share = (t - start) / (end - start)
        return (1 - share) * self.factors[after - 1] + share * self.factors[after]


class OneCycleLR(FollowsRun, lr_scheduler.OneCycleLR):
    """One cycle of torch's `OneCycleLR`, by default over the whole run.

    It also cycles the momentum, in the opposite direction, unless `cycle_momentum` is false. Rates are set at whole
    epochs or steps, so a warm-up shorter than one is lost: with pct_start 0.025 and 20 epochs, the first epoch already
    runs at 0.1997 of max_lr 0.2.

    Args:
        optimizer: optimizer whose learning rates are set.
        max_lr: the highest rate.
        total_steps: epochs or steps of the cycle; by default the length of the run.
        epochs: number of epochs; with `steps_per_epoch`, another way to give `total_steps`.
        steps_per_epoch: number of steps of an epoch.
        kwargs: further arguments of torch's class.

    Raises:
        ValueError: if the length is left out and that of the run is not known.
    """

    lengths = ("total_steps", ONE_CYCLE_PHASES)

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        **kwargs: Any,
    ) -> None:
        if total_steps is None and epochs is None and steps_per_epoch is None:
            total_steps = required_length(self, "total_steps")
        super().__init__(optimizer, max_lr, total_steps, epochs, steps_per_epoch, **kwargs)


class LinearLR(FollowsRun, lr_scheduler.LinearLR):
    """Linear change of torch's `LinearLR`, by default over the whole run.

    Args:
        optimizer: optimizer whose learning rates are set.
        start_factor: factor of the optimizer's rate at the start.
        end_factor: factor of the optimizer's rate at the end.
        total_iters: epochs or steps from start to end; by default the length of the run (torch's own default is 5).
        last_epoch: as for torch's class.

    Raises:
        ValueError: if `total_iters` is left out and the length of the run is not known.
    """

    lengths = ("total_iters",)

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int | None = None,
        last_epoch: int = -1,
    ) -> None:
        total_iters = required_length(self, "total_iters") if total_iters is None else total_iters
        super().__init__(optimizer, start_factor, end_factor, total_iters, last_epoch)


class PolynomialLR(FollowsRun, lr_scheduler.PolynomialLR):
    """Polynomial decay of torch's `PolynomialLR`, by default over the whole run.

    Args:
        optimizer: optimizer whose learning rates are set.
        total_iters: epochs or steps until the rate is 0; by default the length of the run (torch's own default is 5).
        power: exponent of the polynomial.
        last_epoch: as for torch's class.

    Raises:
        ValueError: if `total_iters` is left out and the length of the run is not known.
    """

    lengths = ("total_iters",)

    def __init__(
        self, optimizer: Optimizer, total_iters: int | None = None, power: float = 1.0, last_epoch: int = -1
    ) -> None:
        total_iters = required_length(self, "total_iters") if total_iters is None else total_iters
        super().__init__(optimizer, total_iters, power, last_epoch)


class MultiStepLR(FollowsRun, lr_scheduler.MultiStepLR):
    """Step decay of torch's `MultiStepLR`, whose milestones may be shares of the run.

    Args:
        optimizer: optimizer whose learning rates are set.
        milestones: epochs or steps at which the rate falls, as integers, or shares of the run between 0 and 1.
        gamma: factor of the rate at each milestone.
        last_epoch: as for torch's class.

    Raises:
        ValueError: for a share that is not between 0 and 1, or shares if the length of the run is not known.

    Example:
        >>> import torch
        >>> from lightning_robust.parts.follows_run import run_length
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> with run_length(lambda: 200):  # as a Defense does
        ...     sorted(MultiStepLR(optimizer, [0.5, 0.75]).milestones)
        [100, 150]
    """

    lengths = ("milestones",)

    def __init__(
        self, optimizer: Optimizer, milestones: Sequence[int | float], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        for share in milestones:
            if isinstance(share, float) and not 0 < share < 1:
                raise ValueError(f"A milestone is a whole number or a share of the run between 0 and 1, got {share}.")
        # the rate never falls before the first epoch has ended, however short the run
        fixed = [
            max(round(m * required_length(self, "milestones")), 1) if isinstance(m, float) else m for m in milestones
        ]
        super().__init__(optimizer, fixed, gamma, last_epoch)
