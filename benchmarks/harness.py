"""Timing that survives a busy machine: contenders run interleaved, and are compared by ratios within one round."""

import csv
import importlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

RESULTS = Path(__file__).parent / "results"
NOISE = 0.02
"""Where the tensors of a process happen to lie moves its ratios by so much, in all rounds alike."""
WITHIN = f"within the quartiles and {NOISE:.0%}"
"""How near `Spread.at_least` and `Spread.at_most` look."""

Row = Mapping[str, str | float]
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


def machine() -> dict[str, str | float]:
    """What the numbers were measured on, without names or paths."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    packages = {name: version(name) for name in ("torch", "lightning", "lightning-robust")}
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    cpu = models[0] if models else platform.machine()
    return {"cpu": cpu, "cores": os.cpu_count() or 1, **gpu, "python": platform.python_version(), **packages}


def write(name: str, title: str, rows: Sequence[Row], caption: str = "", folder: Path = RESULTS) -> str:
    """Leave `results/<name>.csv` (each row with its machine) and `.md`; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, [*rows[0], *machine()], lineterminator="\n")
        table.writeheader()
        table.writerows({**row, **machine()} for row in rows)
    lines = [f"# {title}", "", *([caption, ""] if caption else [])]
    lines += [_line(rows[0]), _line(["---"] * len(rows[0]))]
    lines += [_line(row.values()) for row in rows]
    lines += ["", "Machine: " + ", ".join(f"{key} {value}" for key, value in machine().items()) + "."]
    text = "\n".join(lines) + "\n"
    (folder / f"{name}.md").write_text(text)
    return text


def library(name: str) -> Any:
    """A module from outside this folder, whose scripts may bear its name."""
    here, path = Path(__file__).parent.resolve(), sys.path
    sys.path = [entry for entry in path if Path(entry).resolve() != here]
    try:
        return importlib.import_module(name)
    finally:
        sys.path = path


def required(what: Mapping[str, Mapping[Any, bool]]) -> str:
    """A sentence: each requirement, and for which lines it is not met."""
    parts = []
    for requirement, met in what.items():
        missed = [str(line) for line, holds in met.items() if not holds]
        parts.append(f"{requirement} ({'not met: ' + ', '.join(missed) if missed else 'met'})")
    return f"Required: {'; '.join(parts)}."


def bars(
    name: str,
    of: Mapping[str, Spread],
    quantity: str,
    limit: float | None = None,
    folder: Path = RESULTS,
) -> None:
    """Leave `results/<name>.png`: a bar with quartiles for each line of a table, and a line at what is required."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(8, 1 + 0.32 * len(of)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    labels, spreads = list(of)[::-1], list(of.values())[::-1]
    middle = [spread.median for spread in spreads]
    sides = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
    axes.barh(labels, middle, xerr=sides, color="tab:blue", alpha=0.8, error_kw={"elinewidth": 1, "capsize": 2})
    for place, spread in enumerate(spreads):
        said = axes.annotate(
            f"{spread.median:.3g}", (spread.high, place), xytext=(5, 0), textcoords="offset points", va="center"
        )
        said.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    if limit is not None:
        axes.axvline(limit, color="tab:red", lw=1, ls="--", label=f"required: {limit:g}")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    axes.set_xlabel(quantity)
    axes.set_xlim(0, 1.2 * max(spread.high for spread in spreads))
    axes.margins(y=0.01)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(folder / f"{name}.png", dpi=110)


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"
