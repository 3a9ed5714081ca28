"""Targeted success as a table for the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table


def targets_table(told: Mapping[str, Mapping[str, Any]], title: str = "targeted attacks") -> Table:
    """Lay out targeted success as a table, one line for each target and attack of each threat.

    Args:
        told: by the name of a threat, which may be empty, what `targeted_success` found.
        title: of the table.
    """
    out = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("threat", "target", "attack"):
        out.add_column(head, no_wrap=True, max_width=18)
    for head in ("success", "95 % interval", "moved"):
        out.add_column(head, justify="right", no_wrap=True)
    for threat, found in told.items():
        for target, attack, row in success_rows(found):
            low, high = row["confidence_interval"]
            interval = f"{low:.1%} to {high:.1%}"
            out.add_row(threat, target, attack, f"{row['success']:.2%}", interval, f"{row['moved']}/{row['n']}")
    return out


def success_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield target, attack and result; with several attacks, also the result of any of them.

    Example:
        >>> [row[:2] for row in success_rows({"3": {"attacks": {"pgd": {}, "fab": {}}, "any": {}}})]
        [('3', 'pgd'), ('3', 'fab'), ('3', 'any of them')]
    """
    for target, told in found.items():
        yield from ((target, attack, row) for attack, row in told["attacks"].items())
        if len(told["attacks"]) > 1:
            yield target, "any of them", told["any"]
