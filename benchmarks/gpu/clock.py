"""Seconds and memory of steps, by the device's own clock."""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning import Callback


def mark(device: str) -> Any:
    """A moment in the device's queue; on a CPU the time."""
    if device != "cuda":
        return time.perf_counter()
    event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def between(start: Any, end: Any) -> float:
    """Seconds from one moment to another, once the device has come so far."""
    if isinstance(start, float):
        return float(end - start)
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def seconds_of(run: Callable[[], object], device: str) -> float:
    """Seconds of a call; on a GPU those between two events in its queue, which is empty before and after."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = mark(device)
    run()
    return between(start, mark(device))


def interleaved(arms: Mapping[str, Callable[[], object]], device: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each arm in each round; every other round runs backwards. Each has run before."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for k in range(rounds):
        for name in list(arms)[:: -1 if k % 2 else 1]:
            seconds[name].append(seconds_of(arms[name], device))
    return seconds


def weighed(run: Callable[[], object], device: str, before: int) -> tuple[float, float | str]:
    """Seconds of a call, and on a GPU the MiB that are allocated at most during it, beyond those of before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = seconds_of(run, device)
    return seconds, peak_mib() - round(before / 2**20, 1) if device == "cuda" else ""


def peak_mib() -> float:
    """MiB allocated on the GPU at most since the statistics were set back."""
    return round(torch.cuda.max_memory_allocated() / 2**20, 1)


def allocated(device: str) -> int:
    """Bytes allocated on a GPU now; 0 on a CPU."""
    return torch.cuda.memory_allocated() if device == "cuda" else 0


class StepClock(Callback):
    """When each training step of a fit ended, by events in the device's queue, so that no step waits for it."""

    def __init__(self, device: str) -> None:
        self.device, self.ends = device, list[Any]()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(mark(self.device))

    def seconds(self, skip: int) -> float:
        """The median seconds of the steps after the first ones."""
        return statistics.median(between(a, b) for a, b in itertools.pairwise(self.ends[skip:]))
