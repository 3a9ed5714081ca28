"""Numbers that change with the epoch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise


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
