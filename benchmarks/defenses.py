"""Every digits recipe over seeds and radii: accuracy, margins, the price of a step, and what the papers claim.

python -m benchmarks.defenses [--recipes [at,st]] [--seeds 5] [--eps [0.15,0.3]] [--jobs 2]
"""

import csv
import itertools
import multiprocessing
import os
import signal
import statistics
import tempfile
import typing
from collections.abc import Iterable, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

from jsonargparse import auto_cli
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.common.claims import CAPTION, claims
from benchmarks.common.frontier import frontier
from benchmarks.common.processes import quiet, workers
from benchmarks.common.recipes import CONFIGS, VALIDATIONS, Run, Steps, adapted, identity, measure
from benchmarks.common.tables import RESULTS, Row, write
from benchmarks.common.timing import interleave, ratio

ROUNDS = 5
T = TypeVar("T", "Run", "Price")


@dataclass(frozen=True)
class Price:
    """Seconds a training step over AT's: median and quartiles over rounds."""

    recipe: str
    config: str
    ratio: float
    low: float
    high: float


def read(path: Path, kind: type[T]) -> list[T]:
    """The finished lines of an earlier call's file."""
    if not path.exists():
        return []
    types = typing.get_type_hints(kind)
    with path.open(newline="") as file:
        whole = [row for row in csv.DictReader(file) if None not in row.values() and None not in row]
    return [kind(**{name: types[name](value) for name, value in row.items()}) for row in whole]


def append(path: Path, row: Run | Price) -> None:
    """Add one line in one write, so that a kill leaves a whole line or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = "" if path.exists() else ",".join(field.name for field in fields(row)) + "\n"
    with path.open("a") as file:
        file.write(head + ",".join(map(str, asdict(row).values())) + "\n")


def price(path: Path, recipes: Sequence[str], eps: float) -> dict[str, Price]:
    """The seconds a step of each recipe over AT's, all interleaved in this process; what is there is not repeated."""
    wanted = {recipe: identity(adapted(recipe, eps)) for recipe in recipes}
    known = {p.recipe: p for p in read(path, Price) if wanted.get(p.recipe) == p.config}
    missing = [recipe for recipe in recipes if recipe not in known]
    if missing:
        with tempfile.TemporaryDirectory() as folder:
            arms = {recipe: Steps(recipe, eps, folder) for recipe in dict.fromkeys(["at", *missing])}
            seconds = interleave(arms, ROUNDS)
        for recipe in missing:
            of = ratio(seconds[recipe], seconds["at"])
            known[recipe] = Price(recipe, wanted[recipe], *(round(v, 4) for v in (of.median, of.low, of.high)))
            append(path, known[recipe])
    return known


def run_all(path: Path, wanted: dict[tuple[str, float, int], str], jobs: int, epochs: int | None) -> list[str]:
    """Measure in parallel what the file lacks, one line each; returns what failed and why."""
    done = {(run.recipe, run.eps, run.seed, run.config) for run in read(path, Run)}
    missing = [key for key, config in wanted.items() if (*key, config) not in done]
    failures: list[str] = []
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(TextColumn("{task.description:<36}"), *columns) as progress,
        workers(jobs, folder) as pool,
    ):
        task = progress.add_task("", total=len(wanted), completed=len(wanted) - len(missing))
        futures = {pool.submit(measure, *key, epochs): key for key in missing}
        try:
            for future in as_completed(futures):
                name = "{} at {:g}, seed {}".format(*futures[future])
                if error := future.exception():
                    failures.append(f"{name}: {error!r}")
                else:
                    append(path, future.result())
                progress.update(task, advance=1, description=name)
        except BaseException:  # interrupted: do not wait for what is under way
            for process in multiprocessing.active_children():
                process.kill()
            raise
    return failures


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def table(runs: Iterable[Run], prices: dict[str, Price]) -> list[Row]:
    """A row for each radius and recipe."""
    rows: list[Row] = []
    for (eps, recipe), group in itertools.groupby(runs, lambda run: (run.eps, run.recipe)):
        of = list(group)
        row: Row = {
            "linf eps": eps,
            "recipe": recipe,
            "clean %": spread([run.clean for run in of], 1),
            "PGD-50 %": spread([run.robust for run in of], 1),
            "effective margin": spread([run.margin for run in of], 3),
            "step over AT's": prices[recipe].ratio,
            "its quartiles": f"{prices[recipe].low:.2f} to {prices[recipe].high:.2f}",
            "seeds": len(of),
        }
        rows.append(row)
    return rows


def main(
    recipes: list[str] | None = None,
    seeds: int = 5,
    eps: list[float] = [0.15, 0.3],  # noqa: B006  (read alone; a list shows in --help)
    jobs: int = os.cpu_count() or 1,
    results: Path = RESULTS,
    max_epochs: int | None = None,
) -> None:
    """Measure what is missing, print the tables, and leave them in `results`.

    Args:
        recipes: names of files in configs/digits; by default all.
        seeds: how many, from 0 on.
        eps: the linf radii.
        jobs: fits at a time, each of one thread.
        results: where everything is left: raw numbers in defenses_runs.csv and defenses_steps.csv.
        max_epochs: cut the fits short, to try the script.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the workers too, as an interrupt does
    quiet()
    names = recipes or sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    prices = price(results / "defenses_steps.csv", names, eps[0])
    wanted: dict[tuple[str, float, int], str] = {
        (name, radius, seed): identity(adapted(name, radius, max_epochs))
        for seed in range(seeds)
        for radius in eps
        for name in names
    }
    failures = run_all(results / "defenses_runs.csv", wanted, jobs, max_epochs)
    found = {(run.recipe, run.eps, run.seed, run.config): run for run in read(results / "defenses_runs.csv", Run)}
    runs = [found[(*key, config)] for key, config in wanted.items() if (*key, config) in found]
    runs.sort(key=lambda run: (run.eps, names.index(run.recipe), run.seed))
    if runs:
        caption = (
            "Mean ± standard deviation over seeds, on the 450 test images, of the checkpoint that was best by the "
            f"recipe's own monitor (of about {VALIDATIONS} validations). PGD-50: on cross-entropy, step eps / 15, one "
            "start. Effective margin: mean l2 distance to the linearised net's nearest boundary. Steps: batches of 64, "
            f"medians of interleaved epochs, at linf {eps[0]:g}."
        )
        print(write("defenses", "Every digits recipe", table(runs, prices), caption, results))
        if rows := claims(runs):
            print(write("claims", "What the papers claim, on digits", rows, CAPTION, results))
        frontier(runs).savefig(results / "defenses.png", dpi=110)
    if failures:
        raise SystemExit("Failed, and left out:\n" + "\n".join(failures))


if __name__ == "__main__":
    auto_cli(main)
