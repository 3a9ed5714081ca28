"""Torch's learning-rate schedules under their own names, whose left-out lengths are those of the run."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from lightning import Trainer
from torch.optim import Optimizer, lr_scheduler

_run_length: ContextVar[Callable[[], int | None] | None] = ContextVar("run_length", default=None)


@contextmanager
def run_length(length: Callable[[], int | None]) -> Iterator[None]:
    """Inside, the schedules of this module ask `length` for what was left out; it gives None for an endless run."""
    token = _run_length.set(length)
    try:
        yield
    finally:
        _run_length.reset(token)


def length_of(trainer: Trainer, interval: Literal["epoch", "step"]) -> int | None:
    """How many epochs or optimizer steps a trainer's fit will take at most, at least 1; None if that is not known."""
    if interval == "epoch" and trainer.max_steps == -1:
        return None if trainer.max_epochs is None or trainer.max_epochs < 0 else max(trainer.max_epochs, 1)
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps) or steps < 0:
        return None
    if interval == "step":
        return max(int(steps), 1)
    trainer.fit_loop.setup_data()  # for the number of batches
    steps_an_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
    return None if math.isinf(steps_an_epoch) else max(math.ceil(steps / math.ceil(steps_an_epoch)), 1)


class FollowsRun(lr_scheduler.LRScheduler):
    """A schedule of torch's that can take its length from the run.

    A checkpoint restores how far the schedule has come, but not its length: a run that is resumed with another number
    of epochs goes on along the schedule of that number.
    """

    lengths: tuple[str, ...] = ()
    """The attributes that depend on the length."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take everything but the length; where that has changed, set the rates that belong to the new one."""
        own = {name: getattr(self, name) for name in self.lengths}
        super().load_state_dict({**state_dict, **own})
        if any(state_dict.get(name) != value for name, value in own.items()):
            with warnings.catch_warnings():  # torch discourages `step(epoch)`, the one public way to set such rates
                warnings.simplefilter("ignore", UserWarning)
                self.step(self.last_epoch)


def _length(schedule: FollowsRun, what: str) -> int:
    """The run's length, for the setting `what` of a schedule that was left out."""
    ask = _run_length.get()
    name = type(schedule).__name__
    if ask is None:
        raise ValueError(f"{name} needs {what} in whole numbers: only a Defense's scheduler knows the run's length.")
    length = ask()
    if length is None:
        raise ValueError(
            f"{name} takes {what} from the length of the run, which is not known: set trainer.max_epochs, or give "
            f"{what} in whole numbers."
        )
    return length


class CosineAnnealingLR(FollowsRun, lr_scheduler.CosineAnnealingLR):
    """`torch.optim.lr_scheduler.CosineAnnealingLR`, by default over the whole run.

    Args:
        optimizer: whose rates it sets.
        T_max: epochs or steps until the rate is at its least; by default the run's.
        eta_min: the least rate.
        last_epoch: see torch.

    Raises:
        ValueError: for a left-out `T_max` outside a run, or in one without an end.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> with run_length(lambda: 40):  # as a Defense does
        ...     CosineAnnealingLR(optimizer).T_max
        40
    """

    lengths = ("T_max",)

    def __init__(
        self, optimizer: Optimizer, T_max: int | None = None, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        T_max = _length(self, "T_max") if T_max is None else T_max
        super().__init__(optimizer, T_max, eta_min, last_epoch)


class OneCycleLR(FollowsRun, lr_scheduler.OneCycleLR):
    """`torch.optim.lr_scheduler.OneCycleLR`, by default one cycle over the whole run.

    Args:
        optimizer: whose rates it sets.
        max_lr: the greatest rate.
        total_steps: epochs or steps of the cycle; by default the run's.
        epochs: with `steps_per_epoch`, another way to say `total_steps`.
        steps_per_epoch: see `epochs`.
        kwargs: see torch.

    Raises:
        ValueError: for a left-out length outside a run, or in one without an end.
    """

    lengths = ("total_steps", "_schedule_phases")

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
            total_steps = _length(self, "total_steps")
        super().__init__(optimizer, max_lr, total_steps, epochs, steps_per_epoch, **kwargs)


class LinearLR(FollowsRun, lr_scheduler.LinearLR):
    """`torch.optim.lr_scheduler.LinearLR`, by default over the whole run.

    Args:
        optimizer: whose rates it sets.
        start_factor: of the optimizer's rate, at the start.
        end_factor: of the optimizer's rate, at the end.
        total_iters: epochs or steps from start to end; by default the run's (torch's own default is 5).
        last_epoch: see torch.

    Raises:
        ValueError: for a left-out `total_iters` outside a run, or in one without an end.
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
        total_iters = _length(self, "total_iters") if total_iters is None else total_iters
        super().__init__(optimizer, start_factor, end_factor, total_iters, last_epoch)


class PolynomialLR(FollowsRun, lr_scheduler.PolynomialLR):
    """`torch.optim.lr_scheduler.PolynomialLR`, by default over the whole run.

    Args:
        optimizer: whose rates it sets.
        total_iters: epochs or steps until the rate is 0; by default the run's (torch's own default is 5).
        power: of the polynomial.
        last_epoch: see torch.

    Raises:
        ValueError: for a left-out `total_iters` outside a run, or in one without an end.
    """

    lengths = ("total_iters",)

    def __init__(
        self, optimizer: Optimizer, total_iters: int | None = None, power: float = 1.0, last_epoch: int = -1
    ) -> None:
        total_iters = _length(self, "total_iters") if total_iters is None else total_iters
        super().__init__(optimizer, total_iters, power, last_epoch)


class MultiStepLR(FollowsRun, lr_scheduler.MultiStepLR):
    """`torch.optim.lr_scheduler.MultiStepLR`, whose milestones may be shares of the run.

    Args:
        optimizer: whose rates it sets.
        milestones: when the rate falls: whole numbers of epochs or steps, or shares of the run's between 0 and 1.
        gamma: what the rate is multiplied by at each.
        last_epoch: see torch.

    Raises:
        ValueError: for a share that is not between 0 and 1, or shares outside a run or in one without an end.

    Example:
        >>> import torch
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
        # never before the first epoch, however short the run
        whole = [max(round(m * _length(self, "milestones")), 1) if isinstance(m, float) else m for m in milestones]
        super().__init__(optimizer, whole, gamma, last_epoch)
