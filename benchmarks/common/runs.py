"""Many measurements in parallel processes, of which each is kept as soon as it is there."""

import csv
import io
import multiprocessing
import tempfile
import typing
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import as_completed
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.common.processes import workers

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


def read(path: Path, kind: type[T]) -> list[T]:
    """The finished lines of an earlier call's file, as objects of a dataclass."""
    if not path.exists():
        return []
    types = typing.get_type_hints(kind)
    with path.open(newline="") as file:
        whole = [row for row in csv.DictReader(file) if None not in row.values() and None not in row]
    return [kind(**{name: types[name](value) for name, value in row.items()}) for row in whole]


def append(path: Path, row: Any) -> None:
    """Add one line in one write, so that a kill leaves a whole line or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    if not path.exists():
        lines.writerow(field.name for field in fields(row))
    lines.writerow(asdict(row).values())
    with path.open("a") as file:
        file.write(text.getvalue())


def run_all(path: Path, done: set[K], wanted: Mapping[K, str], measure: Callable[[K], Any], jobs: int) -> list[str]:
    """Measure in parallel what is not done, one line each in the file.

    Args:
        path: the file.
        done: the keys whose lines it holds.
        wanted: what to call each key in the progress bar.
        measure: from a key to an object of a dataclass; a function of a module, which other processes can import.
        jobs: processes at a time.

    Returns:
        What failed and why.
    """
    missing = [key for key in wanted if key not in done]
    failures: list[str] = []
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(TextColumn("{task.description:<36}"), *columns) as progress,
        workers(jobs, folder) as pool,
    ):
        task = progress.add_task("", total=len(wanted), completed=len(wanted) - len(missing))
        futures = {pool.submit(measure, key): key for key in missing}
        try:
            for future in as_completed(futures):
                name = wanted[futures[future]]
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
