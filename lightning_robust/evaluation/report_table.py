"""The report of an evaluation as a table for the terminal."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich import get_console
from rich.box import SIMPLE_HEAD
from rich.table import Table

from lightning_robust.evaluation.calibration_table import calibration_table
from lightning_robust.evaluation.corruption_rows import corruption_attack_table
from lightning_robust.evaluation.optimality import in_words
from lightning_robust.evaluation.targets_table import targets_table
from lightning_robust.threat import Threat


def table(report: Mapping[str, Any], title: str) -> Table:
    """Lay out the report of `robustness` as a table for the terminal, at most 80 columns wide."""
    out = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    out.add_column("evaluation", no_wrap=True, max_width=24)  # the others take up to 56
    for head in ("accuracy", "95 % interval", "correct", "seconds"):
        out.add_column(head, justify="right", no_wrap=True)

    def add(label: str, row: Mapping[str, Any], style: str | None = None) -> None:
        low, high = row["confidence_interval"]
        seconds = f"{row['seconds']:.1f}" if "seconds" in row else ""
        cells = (f"{row['accuracy']:.2%}", f"{low:.1%} to {high:.1%}", f"{row['correct']}/{report['n']}", seconds)
        out.add_row(label, *cells, style=style)

    add("clean", report["clean"])
    for name, row in report["attacks"].items():
        for stage in row.get("stages", ()):
            add(f"  after {stage['name'].removeprefix(f'{name}/')}", stage, style="dim")
        add(f"{name} ({Threat(**row['attack']['threat'])})", row)
    add("worst case", report["worst"], style="bold")
    return out


def print_table(report: Mapping[str, Any], title: str) -> None:
    """Print the table of a report, and below it a training at another threat and each check that did not pass."""
    console = get_console()  # where a Rich progress bar draws: printed above it, not into it
    console.print(table(report, title))
    if nearest := in_words(report["attacks"]):
        console.print(nearest, highlight=False)
    if "calibration" in report:
        names = {"clean": "clean", "worst": "worst case"}
        console.print(calibration_table((names[key], told) for key, told in report["calibration"].items()))
    if "corruptions" in report:
        console.print(corruption_attack_table(report["corruptions"]))
    if "targeted" in report:
        console.print(targets_table({"": report["targeted"]}))
    if "trained_at" in report:
        console.print(f"trained at {report['trained_at']}, evaluated at {_threats(report)}", highlight=False)
    if "passes" in report["worst"]:
        told = f"a random net: the mean over {report['worst']['passes']} new forward passes on the examples found"
        console.print(told, highlight=False)
    print_doubts(report["checks"])


def print_doubts(checks: Iterable[Mapping[str, Any]]) -> None:
    """Print a line for each check that did not pass."""
    console = get_console()
    for check in checks:
        if check["status"] != "pass":
            style = {"warn": "yellow", "fail": "bold red"}[check["status"]]
            console.print(f"{check['status']}: {check['sentence']}", style=style, markup=False, highlight=False)


def _threats(report: Mapping[str, Any]) -> str:
    """Name the threats of all attacks."""
    told = report["threat"]
    return " and ".join(str(Threat(**threat)) for threat in (told if isinstance(told, list) else [told]))
