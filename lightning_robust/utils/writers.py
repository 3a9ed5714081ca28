"""Tables and reports in files, each written whole or not at all."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
