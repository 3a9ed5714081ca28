"""Numbers that change with the epoch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

from lightning_robust.types import to_float


class Schedule(ABC):
    """A number for each epoch; epochs count from 0."""

    @abstractmethod
    def __call__(self, epoch: int) -> float:
        """The value during this epoch."""


class Steps(Schedule):
    """`value`, multiplied by `factor` from each milestone epoch on.

    Raises:
        ValueError: if the milestones do not increase.
    """

    def __init__(self, value: float, milestones: Sequence[int] = (), factor: float = 0.1) -> None:
        if any(a >= b for a, b in pairwise(milestones)):
            raise ValueError(f"Milestones must increase, got {list(milestones)}.")
        self.value, self.milestones, self.factor = value, tuple(milestones), factor

    def __call__(self, epoch: int) -> float:
        """The value during this epoch."""
        return self.value * self.factor ** sum(epoch >= milestone for milestone in self.milestones)


class Linear(Schedule):
    """From `start` in epoch 0 straight to `end` in epoch `epochs`, and `end` from there on.

    Raises:
        ValueError: for `epochs` below 1.
    """

    def __init__(self, start: float | str, end: float | str, epochs: int) -> None:
        if epochs < 1:
            raise ValueError(f"epochs must be >= 1, got {epochs}.")
        self.start, self.end, self.epochs = to_float(start), to_float(end), epochs

    def __call__(self, epoch: int) -> float:
        """The value during this epoch."""
        share = min(epoch / self.epochs, 1.0)
        return (1 - share) * self.start + share * self.end


class Stages(Schedule):
    """The first value before the first milestone epoch, the second from there to the next, and so on.

    Raises:
        ValueError: unless there is one value more than milestones, which increase.
    """

    def __init__(self, values: Sequence[float | str], milestones: Sequence[int]) -> None:
        if len(values) != len(milestones) + 1 or any(a >= b for a, b in pairwise(milestones)):
            raise ValueError(
                f"Stages needs increasing milestones and one value more, got {list(values)} and {list(milestones)}."
            )
        self.values, self.milestones = [to_float(value) for value in values], tuple(milestones)

    def __call__(self, epoch: int) -> float:
        """The value during this epoch."""
        return self.values[sum(epoch >= milestone for milestone in self.milestones)]
