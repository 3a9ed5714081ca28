"""Tables, reports and figures in files, each written whole or not at all."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lightning_robust.utils.files import atomic_write


def write_json(report: Mapping[str, Any], path: Path) -> None:
    """Write a report to a JSON file atomically: nobody ever reads half a file."""
    with atomic_write(path) as beside, beside.open("w") as file:
        json.dump(report, file, indent=2)
        file.write("\n")


def write_csv(head: Sequence[str], lines: Iterable[Sequence[Any]], path: Path) -> None:
    """Write a head and lines to a CSV file atomically."""
    with atomic_write(path) as beside, beside.open("w", newline="") as file:
        csv.writer(file).writerows([head, *lines])


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically, in the format that the path's ending names, such as `.png`, `.svg` or `.pdf`."""
    with atomic_write(path) as beside:
        figure.savefig(beside, format=path.suffix[1:], dpi=110)


def write_figures(figures: Mapping[str, Figure], folder: str | Path, formats: Iterable[str]) -> list[Path]:
    """Write figures into a folder, each in all of these formats, and return the paths.

    Args:
        figures: by the name of the file, without its ending.
        folder: made if it is not there; what lies there under the same name is replaced.
        formats: "png", "svg" or "pdf".
    """
    paths = [Path(folder, f"{name}.{kind}") for name in figures for kind in formats]
    for path in paths:
        write_figure(figures[path.name.removesuffix(path.suffix)], path)
    return paths
