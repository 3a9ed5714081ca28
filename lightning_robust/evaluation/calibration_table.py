"""Calibration as a table for the terminal."""

from collections.abc import Iterable, Mapping

from rich.box import SIMPLE_HEAD
from rich.table import Table

COLUMNS = {"ece": "ECE", "nll": "NLL", "brier": "Brier"}
"""The headings of the columns."""


def calibration_table(rows: Iterable[tuple[str, Mapping[str, float | None]]], title: str = "calibration") -> Table:
    """Lay out calibrations as a table: one line for each, which begins with its name.

    Example:
        >>> calibration_table([("clean", {"ece": 0.1, "nll": 0.5, "brier": None})]).row_count
        1
    """
    out = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    out.add_column("evaluation", no_wrap=True)
    for head in COLUMNS.values():
        out.add_column(head, justify="right", no_wrap=True)
    for name, told in rows:
        out.add_row(name, *(number(told[key]) for key in COLUMNS))
    return out


def number(value: float | None) -> str:
    """Write a number with four decimals, or "not finite".

    Example:
        >>> number(0.12345), number(None)
        ('0.1235', 'not finite')
    """
    return "not finite" if value is None else f"{value:.4f}"
