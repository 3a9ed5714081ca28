"""Learning-rate schedules of torch that take a length which is left out from the run."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from lightning import Trainer
from torch.optim import Optimizer, lr_scheduler

from lightning_robust.utils.private_apis import ONE_CYCLE_PHASES

_run_length: ContextVar[Callable[[], int | None] | None] = ContextVar("run_length", default=None)


@contextmanager
def run_length(length: Callable[[], int | None]) -> Iterator[None]:
    """Provide the run's length to schedules of this module that are built inside the context.

    Args:
        length: returns the length in epochs or steps, or None if it is not known.
    """
    token = _run_length.set(length)
    try:
        yield
    finally:
        _run_length.reset(token)


def length_of(trainer: Trainer, interval: Literal["epoch", "step"]) -> int | None:
    """Return how many epochs or optimizer steps a trainer's `fit` takes at most.

    Args:
        trainer: the Lightning trainer.
        interval: "epoch" or "step", what to count.

    Returns:
        The number, at least 1, or None if it is not known.
    """
    if interval == "epoch" and trainer.max_steps == -1:
        return None if trainer.max_epochs is None or trainer.max_epochs < 0 else max(trainer.max_epochs, 1)
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps) or steps < 0:
        return None
    if interval == "step":
        return max(int(steps), 1)
    trainer.fit_loop.setup_data()  # it sets num_training_batches
    steps_an_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
    return None if math.isinf(steps_an_epoch) else max(math.ceil(steps / math.ceil(steps_an_epoch)), 1)


class FollowsRun(lr_scheduler.LRScheduler):
    """Base class of torch's schedules that can take their length from the run.

    A checkpoint restores the progress of the schedule but not its length: a run that is resumed with another number
    of epochs continues on the schedule of that number.
    """

    lengths: tuple[str, ...] = ()
    """The attributes that depend on the length."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore everything but the length; if the length has changed, set the rates that belong to the new one.

        Args:
            state_dict: what `state_dict` returned.
        """
        own = {name: getattr(self, name) for name in self.lengths}
        super().load_state_dict({**state_dict, **own})
        if any(state_dict.get(name) != value for name, value in own.items()):
            with warnings.catch_warnings():  # torch discourages `step(epoch)`, the one public way to set such rates
                warnings.simplefilter("ignore", UserWarning)
                self.step(self.last_epoch)


def _length(schedule: FollowsRun, what: str) -> int:
    """Return the run's length, which stands in for the setting `what` of a schedule."""
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
    """One cycle of torch's `OneCycleLR`, by default over the whole run.

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
            total_steps = _length(self, "total_steps")
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
        total_iters = _length(self, "total_iters") if total_iters is None else total_iters
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
        total_iters = _length(self, "total_iters") if total_iters is None else total_iters
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
        fixed = [max(round(m * _length(self, "milestones")), 1) if isinstance(m, float) else m for m in milestones]
        super().__init__(optimizer, fixed, gamma, last_epoch)
