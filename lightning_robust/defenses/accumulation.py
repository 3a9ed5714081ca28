"""Number of batches over which gradients accumulate."""

from collections.abc import Iterable
from typing import Any

from lightning import Trainer

from lightning_robust.utils.named_class import is_named


def accumulates(trainer: Trainer) -> int:
    """Return over how many batches a trainer accumulates gradients at most, also where a callback schedules it."""
    return most_batches(trainer.accumulate_grad_batches, getattr(trainer, "callbacks", ()))


def most_batches(accumulate_grad_batches: int, callbacks: Iterable[Any]) -> int:
    """Return over how many batches gradients accumulate at most.

    Args:
        accumulate_grad_batches: the trainer's setting.
        callbacks: its callbacks; a `GradientAccumulationScheduler` among them schedules other numbers.

    Example:
        >>> from lightning.pytorch.callbacks import GradientAccumulationScheduler
        >>> most_batches(1, [GradientAccumulationScheduler({0: 1, 5: 4})])
        4
    """
    schedules: list[dict[int, int]] = [c.scheduling for c in callbacks if is_named(c, "GradientAccumulationScheduler")]
    return max([accumulate_grad_batches, *(n for schedule in schedules for n in schedule.values())])
