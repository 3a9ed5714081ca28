"""Runs the parts one after the other, each in a process of its own, within the time given, and writes the tables."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from jsonargparse import ArgumentParser

from benchmarks.common.tables import RESULTS
from benchmarks.gpu.lines import BROKE, PARTS, Part, Setup
from benchmarks.gpu.report import tables

ENDS = {"smoke": 0.28, "throughput": 0.66, "autoattack": 0.77, "recipe": 0.87, "fashion": 0.97}
"""When each part ends at the latest, as a share of all time; what it leaves is the next one's. The last is for the
tables. Where only some parts run, the last of them ends as late as the last of all."""
GRACE, ATTEMPTS = 15, 5
"""Seconds after its end when a part that does not end itself is stopped; how often one that breaks down is begun."""


def run(part: str, setup: Setup, until: float) -> None:
    """Run a part, again without the case in which it broke down, and keep a line if it did not come to its end."""
    whole = "the part as a whole"
    for attempt in range(ATTEMPTS):
        code = process(part, setup, until, attempt > 0)
        if code == 0 or time.time() >= until or BROKE not in {line.note for line in setup.lines(part).values()}:
            break
    why = f"the process ended with {code}" if code is not None else f"stopped {GRACE} s after its time"
    if code != 0:
        setup.add(part, whole, "failed", why)
    elif whole in setup.lines(part):
        setup.add(part, whole, "ok")


def process(part: str, setup: Setup, until: float, again: bool) -> int | None:
    """Run a part in a process of its own; returns its exit status, None if it had to be stopped."""
    options = {"device": setup.device, "toy": str(setup.toy).lower(), "results": setup.results, "data": setup.data}
    options |= {"until": until, "again": str(again).lower()} | ({"authors": setup.authors} if setup.authors else {})
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu.part",
        f"--part={part}",
        *(f"--{key}={v}" for key, v in options.items()),
    ]
    started = subprocess.Popen(command, cwd=Path(__file__).parents[2], start_new_session=True)
    try:
        return started.wait(max(until - time.time(), 0) + GRACE)
    except subprocess.TimeoutExpired:
        return None
    finally:  # its own processes too, such as those that compile
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def main(
    device: str = "cuda",
    toy: bool = False,
    minutes: float | None = None,
    results: Path | None = None,
    data: Path = Path("/usr/share/datasets/fashion-mnist"),
    authors: Path | None = None,
    parts: list[Part] = list(PARTS),  # noqa: B006  (read alone; a list shows in --help)
) -> None:
    """Measure what is missing, leave it in results/gpu_lines.csv and results/gpu_<part>_<device>.{csv,md}.

    Args:
        device: "cuda" or "cpu".
        toy: tiny nets and images, few recipes, to see that everything runs; nothing is kept unless results are named.
        minutes: for everything; what does not fit is left out. By default 8, and an hour for the toy.
        results: folder of lines and tables.
        data: folder of Fashion-MNIST's files.
        authors: folder with clones of the authors' repositories, named TRADES and ST-AT.
        parts: those to run.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("No GPU is at hand; with --device cpu --toy all of it runs on the CPU, with tiny nets.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the part under way ends, too
    began, minutes = time.time(), minutes or (60.0 if toy else 8.0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = results or (Path(scratch) if toy else RESULTS)
        setup = Setup(device, toy, folder.absolute(), data.absolute(), authors and authors.absolute())
        print(f"{setup.name}: {minutes:g} minutes for {', '.join(parts)}", flush=True)
        chosen = [part for part in PARTS if part in parts]
        for part in chosen:
            run(part, setup, began + 60 * minutes * ENDS[part] * ENDS[PARTS[-1]] / ENDS[chosen[-1]])
            lines, texts = tables(setup)
    print("\n".join(texts))
    counts = {status: sum(line.status == status for line in lines) for status in sorted({x.status for x in lines})}
    print(f"{time.time() - began:.0f} s: " + ", ".join(f"{n} {status}" for status, n in counts.items()))
    print("\n".join(line.told for line in lines if line.status in ("failed", "left out")))
    if any(line.part == "smoke" and line.status == "failed" for line in lines):
        raise SystemExit(1)


if __name__ == "__main__":
    parser = ArgumentParser(description=(main.__doc__ or "").partition("\n")[0])
    parser.add_function_arguments(main, as_group=False, skip={"toy"})
    parser.add_argument("--toy", action="store_true", help="tiny nets and images, to see that everything runs")
    main(**parser.parse_args().as_dict())
