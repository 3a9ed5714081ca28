"""Timing that survives a busy machine: contenders run interleaved, and are compared by ratios within one round."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

NOISE = 0.02
"""Where the tensors of a process happen to lie moves its ratios by so much, in all rounds alike."""
WITHIN = f"within the quartiles and {NOISE:.0%}"
"""How near `Spread.at_least` and `Spread.at_most` look."""

Arm = Callable[[], float]
"""One repetition of a contender; returns its seconds."""


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def at_least(self, limit: float) -> bool:
        """Whether it is, as far as can be told."""
        return self.high >= limit and self.median >= limit - NOISE

    def at_most(self, limit: float) -> bool:
        """Whether it is, as far as can be told."""
        return self.low <= limit and self.median <= limit + NOISE

    def quartiles(self, digits: int = 3) -> str:
        """In words."""
        return f"{self.low:.{digits}f} to {self.high:.{digits}f}"


def now() -> float:
    """Seconds: on a GPU by the wall clock, after the queued work; else of this process's CPU time.

    CPU time leaves out what other processes took meanwhile. It is wall time on an idle machine as long as one thread
    works (`torch.set_num_threads(1)`).
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def timed(run: Callable[[], object]) -> Arm:
    """The arm that times a whole call."""

    def arm() -> float:
        start = now()
        run()
        return now() - start

    return arm


def interleave(arms: Mapping[str, Arm], rounds: int) -> dict[str, list[float]]:
    """Seconds of each arm in each round, after one round that is not counted; every other round runs backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("", total=(rounds + 1) * len(arms))
        for k in range(rounds + 1):
            for name in list(arms)[:: -1 if k % 2 else 1]:
                progress.update(task, description=name if k else f"warm-up: {name}")
                spent = arms[name]()
                if k:
                    seconds[name].append(spent)
                progress.advance(task)
    return seconds


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Of the ratios within each round, so that what slows a whole round cancels."""
    return Spread.of([a / b for a, b in zip(numerator, denominator, strict=True)])
