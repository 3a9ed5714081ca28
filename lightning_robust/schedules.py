"""Schedules of numbers that change with the epoch, such as a radius or an image size."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

from lightning_robust.types import to_float


class Schedule(ABC):
    """Base class of schedules: a function of the epoch, which counts from 0 and may be a fraction."""

    @abstractmethod
    def __call__(self, epoch: float) -> float:
        """Return the value at this epoch."""


class StepDecay(Schedule):
    """Schedule that multiplies a value by a factor at each milestone, as torch's `MultiStepLR` does.

    Args:
        value: value before the first milestone.
        milestones: epochs from which the value is multiplied once more, in increasing order.
        factor: the factor.

    Raises:
        ValueError: if the milestones do not increase.

    Example:
        >>> schedule = StepDecay(8.0, milestones=[1, 3], factor=0.5)
        >>> [schedule(epoch) for epoch in range(5)]
        [8.0, 4.0, 4.0, 2.0, 2.0]
    """

    def __init__(self, value: float, milestones: Sequence[int] = (), factor: float = 0.1) -> None:
        if any(a >= b for a, b in pairwise(milestones)):
            raise ValueError(f"Milestones must increase, got {list(milestones)}.")
        self.value = value
        self.milestones = tuple(milestones)
        self.factor = factor

    def __call__(self, epoch: float) -> float:
        """Return the value at this epoch."""
        return self.value * self.factor ** sum(epoch >= milestone for milestone in self.milestones)


class Linear(Schedule):
    """Schedule that goes linearly from one value to another, and stays there.

    Args:
        start: value in epoch 0; a number or a fraction such as "8/255".
        end: value from epoch `epochs` on; likewise.
        epochs: length of the slope in epochs, >= 1.

    Raises:
        ValueError: for `epochs` below 1.

    Example:
        >>> schedule = Linear(0.0, 1.0, epochs=2)
        >>> [schedule(epoch) for epoch in range(4)]
        [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(self, start: float | str, end: float | str, epochs: int) -> None:
        if epochs < 1:
            raise ValueError(f"epochs must be >= 1, got {epochs}.")
        self.start = to_float(start)
        self.end = to_float(end)
        self.epochs = epochs

    def __call__(self, epoch: float) -> float:
        """Return the value at this epoch."""
        share = min(epoch / self.epochs, 1.0)
        return (1 - share) * self.start + share * self.end


class PiecewiseConstant(Schedule):
    """Schedule that takes the next of several values at each milestone.

    Args:
        values: the values; numbers or fractions such as "8/255".
        milestones: epochs from which the second value holds, the third, and so on, in increasing order.

    Raises:
        ValueError: unless the milestones increase and there is one value more than milestones.

    Example:
        >>> schedule = PiecewiseConstant([128, 192, 224], milestones=[2, 3])
        >>> [schedule(epoch) for epoch in range(5)]
        [128.0, 128.0, 192.0, 224.0, 224.0]
    """

    def __init__(self, values: Sequence[float | str], milestones: Sequence[int]) -> None:
        if len(values) != len(milestones) + 1 or any(a >= b for a, b in pairwise(milestones)):
            raise ValueError(
                "PiecewiseConstant needs increasing milestones and one value more, "
                f"got {list(values)} and {list(milestones)}."
            )
        self.values = [to_float(value) for value in values]
        self.milestones = tuple(milestones)

    def __call__(self, epoch: float) -> float:
        """Return the value at this epoch."""
        return self.values[sum(epoch >= milestone for milestone in self.milestones)]
