"""One part of a run on a GPU, in a process of its own: python -m benchmarks.gpu.part --help."""

import signal
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jsonargparse import auto_cli

from benchmarks.common.processes import quiet
from benchmarks.gpu.lines import BROKE, OUT_OF_TIME, InapplicableError, OutOfTimeError, Setup

ROOT = Path(__file__).parents[2]

Measure: TypeAlias = Callable[[], Mapping[str, Any]]
Cases: TypeAlias = Iterator[tuple[str, Measure]]
"""What is to be measured, by name. A part is a module with `cases(setup, done, until)`, which yields them."""


@contextmanager
def ended_at(until: float) -> Iterator[None]:
    """Raise `OutOfTimeError` inside when the time has come."""

    def end(*_: Any) -> None:
        raise OutOfTimeError

    left = until - time.time()
    if left <= 0:
        raise OutOfTimeError
    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, left)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def reason(error: BaseException) -> str:
    """One line: what was raised, and where in this repository."""
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(ROOT))]
    where = f" ({Path(places[-1].filename).relative_to(ROOT)}:{places[-1].lineno})" if places else ""
    said = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {said[:200]}{where}"


def run(part: str, setup: Setup, until: float, again: bool = False) -> None:
    """Measure what is missing, each case until the part's time is over, and keep a line of each.

    Args:
        part: which one.
        setup: where it takes place.
        until: when it ends, as `time.time()` tells it.
        again: whether the part has broken down before; the case in which it did is then left alone.
    """
    lines = setup.lines(part)
    done = {case for case, line in lines.items() if line.status in ("ok", "not applicable")}
    done |= {case for case, line in lines.items() if again and line.note == BROKE}
    cases = import_module(f"benchmarks.gpu.{part}").cases(setup, done, until)
    for case, measure in cases:
        if case in done:
            continue
        start = time.time()
        setup.add(part, case, "failed", BROKE)  # unless another line follows
        try:
            with ended_at(until):
                line = setup.add(part, case, "ok", values=measure())
        except InapplicableError as why:
            line = setup.add(part, case, "not applicable", str(why))
        except (Exception, OutOfTimeError) as error:  # a case that fails does not take the others with it
            late = isinstance(error, OutOfTimeError) or time.time() >= until
            line = setup.add(part, case, *(("left out", OUT_OF_TIME) if late else ("failed", reason(error))))
        print(f"{line.told} [{time.time() - start:.1f} s]", flush=True)
        if setup.device == "cuda":
            torch.cuda.empty_cache()


def fresh(done: Collection[str], *cases: str) -> bool:
    """Whether any of the cases is still to be measured."""
    return not set(cases) <= set(done)


def main(
    part: str,
    device: str,
    toy: bool,
    results: Path,
    data: Path,
    until: float,
    authors: Path | None = None,
    again: bool = False,
) -> None:
    """Run one part; the arguments are those of `run` and `Setup`."""
    quiet()
    run(part, Setup(device, toy, results, data, authors), until, again)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
