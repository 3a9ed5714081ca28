"""The length of a run, and the learning-rate schedules that can take theirs from it."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from lightning import Trainer
from torch.optim import lr_scheduler

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


def required_length(schedule: FollowsRun, what: str) -> int:
    """Return the run's length, which stands in for the setting `what` of a schedule.

    Raises:
        ValueError: if it is not known.
    """
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
