"""Tables of results, as CSV and Markdown, each with the machine that it was measured on."""

import csv
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch

from lightning_robust.evaluation.provenance import versions

RESULTS = Path(__file__).parents[1] / "results"

Row: TypeAlias = Mapping[str, str | float]
"""One line of a table: the cell of each column."""


def machine() -> dict[str, str | float]:
    """What the numbers were measured on, without names or paths."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found = versions()
    packages = {name: found[name] or "not installed" for name in ("torch", "lightning", "lightning-robust")}
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


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def required(what: Mapping[str, Mapping[Any, bool]]) -> str:
    """A sentence: each requirement, and for which lines it is not met."""
    parts = []
    for requirement, met in what.items():
        missed = [str(line) for line, holds in met.items() if not holds]
        parts.append(f"{requirement} ({'not met: ' + ', '.join(missed) if missed else 'met'})")
    return f"Required: {'; '.join(parts)}."


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"
