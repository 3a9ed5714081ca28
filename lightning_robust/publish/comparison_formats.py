"""A comparison of runs as HTML, Markdown, LaTeX, CSV, or a table for the terminal."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.table import Table

from lightning_robust.publish.charts import Point, trade_off_chart
from lightning_robust.publish.comparison import Group
from lightning_robust.publish.page import render, write_page
from lightning_robust.publish.svg import themed_svg
from lightning_robust.utils.files import atomic_write

HEAD = ("run", "attacks", "clean", "95 % interval", "robust", "95 % interval", "correct")
FORMATS = (".html", ".md", ".tex", ".csv")


def write_comparison(groups: Sequence[Group], out: str) -> str:
    """Write a comparison in the format that the file's ending names.

    Args:
        groups: what `compare` gives.
        out: a path that ends in `.html`, `.md`, `.tex` or `.csv`.

    Raises:
        FileExistsError: where a file lies, but for an earlier page of ours.
        ValueError: for another ending.
    """
    path = Path(out)
    if path.suffix not in FORMATS:
        raise ValueError(f"--out {out} has no known ending: choose one of {', '.join(FORMATS)}.")
    if path.suffix == ".html":
        write_page(as_html(groups), path)
        return out
    if path.exists():
        raise FileExistsError(f"{out} exists and is left as it is: give another --out.")
    text = {".md": as_markdown, ".tex": as_latex, ".csv": as_csv}[path.suffix](groups)
    with atomic_write(path) as beside:
        beside.write_text(text, encoding="utf-8")
    return out


def rows(group: Group) -> list[list[str]]:
    """Return the lines of a group's table, under `HEAD`."""
    lines = []
    for name, evaluation, _ in group.entries:
        report = evaluation.report
        cells = [name, ", ".join(evaluation.attacks)]
        for row in (report["clean"], report["worst"]):
            low, high = row["confidence_interval"]
            cells += [f"{row['accuracy']:.2%}", f"{low:.1%} to {high:.1%}"]
        lines.append([*cells, f"{report['worst']['correct']}/{report['n']}"])
    return lines


def as_markdown(groups: Sequence[Group]) -> str:
    """Return a comparison in Markdown: for each group a table, what to know of it, and the paired tests."""
    blocks = []
    for group in groups:
        lines = [f"## {group.title}", "", _line(HEAD), "|" + "---|" * len(HEAD), *map(_line, rows(group))]
        blocks.append("\n".join([*lines, *(f"\n{doubt}" for doubt in group.doubts)]))
        if tests := sentences(group):
            blocks.append("\n".join(f"- {sentence}" for sentence in tests))
    return "\n\n".join(blocks) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def as_latex(groups: Sequence[Group]) -> str:
    """Return a comparison as LaTeX tables, which need no package."""
    blocks = []
    for group in groups:
        body = [" & ".join(map(_escaped, line)) + r" \\" for line in (HEAD, *rows(group))]
        columns = "ll" + "r" * (len(HEAD) - 2)
        lines = [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\hline",
            body[0],
            r"\hline",
            *body[1:],
            r"\hline",
        ]
        told = [f"% {doubt}" for doubt in group.doubts]
        blocks.append("\n".join([f"% {group.title}", *told, *lines, r"\end{tabular}"]))
    return "\n\n".join(blocks) + "\n"


def _escaped(text: str) -> str:
    """Write a text so that LaTeX takes it as it is."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)


def as_csv(groups: Sequence[Group]) -> str:
    """Return a comparison as CSV, one line a run and threat, with accuracies in [0, 1]."""
    written = io.StringIO()
    out = csv.writer(written, lineterminator="\n")
    kinds = ("accuracy", "low", "high", "correct")
    out.writerow(
        ["run", "threat", "stage", "n", "attacks", *(f"{of}_{k}" for of in ("clean", "robust") for k in kinds)]
    )
    for group in groups:
        for name, evaluation, _ in group.entries:
            cells = [name, group.threats, group.stage, group.n, " ".join(evaluation.attacks)]
            for row in (evaluation.report["clean"], evaluation.report["worst"]):
                cells += [row["accuracy"], *row["confidence_interval"], row["correct"]]
            out.writerow(cells)
    return written.getvalue()


def as_html(groups: Sequence[Group]) -> str:
    """Return a comparison as a page of its own, with a plot of clean against robust accuracy for each group."""
    told = []
    for number, group in enumerate(groups):
        points = [
            Point(name, *((row["accuracy"], *row["confidence_interval"]) for row in (told_["clean"], told_["worst"])))
            for name, told_ in ((entry.name, entry.evaluation.report) for entry in group.entries)
        ]
        chart = Markup(themed_svg(trade_off_chart(points), f"group {number}"))
        told.append(
            {
                "title": group.title,
                "rows": rows(group),
                "doubts": group.doubts,
                "chart": chart if group.threats else None,
                "paired": group.paired(),
                "names": [entry.name for entry in group.entries],
                "differences": group.differences(),
            }
        )
    return render("comparison.html", title="Comparison of runs", head=HEAD, groups=told)


def sentences(group: Group) -> list[str]:
    """Return each paired test of a group in words."""
    return [
        f"{test.measure.capitalize()}: {test.only_first} images are right in {test.first} alone, {test.only_second} in "
        f"{test.second} alone; p = {test.p:.2g} (McNemar's exact test)."
        for test in group.paired()
    ]


def as_tables(groups: Sequence[Group]) -> list[Table]:
    """Return a comparison as tables for the terminal."""
    tables = []
    for group in groups:
        table = Table(title=group.title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
        for name, side in zip(("run", "clean", "95 %", "robust", "95 %"), ("left", *["right"] * 4), strict=True):
            table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
        for line in rows(group):
            table.add_row(line[0], *line[2:6])
        tables.append(table)
    return tables
