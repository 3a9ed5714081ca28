"""The tables of a `RobustnessReport`, each at most 80 columns wide, from its summary."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lightning_robust.evaluation.calibration_table import calibration_table
from lightning_robust.evaluation.corruption_rows import corruption_attack_table
from lightning_robust.evaluation.targets_table import targets_table


def accuracy_table(summary: Mapping[str, Any]) -> Table:
    """Lay out the accuracies without an attack, under each attack, and in the worst case of each threat."""
    out = Table(title=f"{summary['n']} images", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    out.add_column("threat", no_wrap=True)
    out.add_column("attack", no_wrap=True, max_width=24)
    for head in ("accuracy", "95 % interval", "correct"):
        out.add_column(head, justify="right", no_wrap=True)
    for threat, attack, row, bold in _rows(summary):
        low, high = row["confidence_interval"]
        cells = f"{row['accuracy']:.2%}", f"{low:.1%} to {high:.1%}", f"{row['correct']}/{summary['n']}"
        out.add_row(threat, attack, *cells, style="bold" if bold else None)
    return out


def further_tables(summary: Mapping[str, Any]) -> dict[str, Table]:
    """Lay out calibration, corruptions and targeted success, by name, if the evaluation has them."""
    tables = {}
    if "calibration" in summary:
        told = {"clean": summary["calibration"]}
        told |= {f"{name}, worst case": row.get("calibration") for name, row in summary["threats"].items()}
        tables["calibration"] = calibration_table((name, row) for name, row in told.items() if row)
    for name, row in summary["threats"].items():
        if "corruptions" in row:
            tables[f"corruptions, {name}"] = corruption_attack_table(row["corruptions"], f"corruptions, {name}")
    targeted = {name: row["targeted"] for name, row in summary["threats"].items() if "targeted" in row}
    if targeted:
        tables["targets"] = targets_table(targeted)
    return tables


def _rows(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any], bool]]:
    yield "", "none", summary["clean"], False
    for threat, told in summary["threats"].items():
        for name, row in told["attacks"].items():
            yield threat, name, row, False
        yield threat, "worst case", told, True
    if "union" in summary:
        yield "all of them", "worst case", summary["union"], True
