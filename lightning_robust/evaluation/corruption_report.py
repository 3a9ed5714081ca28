"""The results of a test under common corruptions: `corruptions.json`, a table and a figure."""

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from lightning_robust.evaluation.accuracy_rows import accuracy, finite

COLUMNS = 5
"""The number of panels in a row of the figure."""


def corruption_report(
    counts: Mapping[tuple[str, int], tuple[int, int]],
    errors: Mapping[str, float],
    reference: Mapping[str, float] | None,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Build the content of `corruptions.json`.

    Args:
        counts: the numbers (correct samples, samples) for each (corruption, severity); ("clean", 0) stands for the
            uncorrupted images.
        errors: the errors in [0, 1] that `CorruptionError` computes.
        reference: the errors of the classifier that mCE is relative to, if there is one.
        about: entries that identify the run.

    Example:
        >>> report = corruption_report({("fog", 1): (3, 4)}, {"fog": 0.25, "mean": 0.25}, None, {"stage": "test"})
        >>> report["stage"], report["n"], report["corruptions"]["fog"]["accuracy"]
        ('test', 4, 0.75)
    """
    names = dict.fromkeys(name for name, severity in counts if severity)
    rows = {group: {**accuracy(correct, n), "n": n} for group, (correct, n) in counts.items() if n}
    means: dict[str, dict[str, Any]] = {name: {"accuracy": finite(1 - errors[name])} for name in names}
    for name, row in means.items():
        if reference is not None:
            row["ce"] = finite(errors[name] / reference[name]) if reference[name] else None
        row["severities"] = {str(s): rows.get((c, s)) for c, s in counts if c == name}
    return {
        **about,
        "n": sum(n for _, n in counts.values()),
        **({"clean": rows["clean", 0]} if ("clean", 0) in rows else {}),
        "corruptions": means,
        "mean": {"accuracy": finite(1 - errors["mean"])},
        **{name: finite(errors[name]) for name in ("mce", "relative_mce") if name in errors},
        **({"reference": dict(reference)} if reference is not None else {}),
    }


def corruption_table(report: Mapping[str, Any], title: str) -> Table:
    """Lay out the report as a table for the terminal: accuracy in % by corruption and severity."""
    rows, out = report["corruptions"], Table(title=title)
    severities = sorted({s for row in rows.values() for s in row["severities"]}, key=int)
    heads = ["corruption", *severities, "mean", *(["CE"] if "mce" in report else [])]
    for head in heads:
        out.add_column(head, justify="left" if head == "corruption" else "right", no_wrap=True)
    if "clean" in report:
        out.add_row("clean", *[""] * len(severities), _percent(report["clean"]["accuracy"]))
    for name, row in rows.items():
        cells = [_percent((row["severities"].get(s) or {}).get("accuracy")) for s in severities]
        out.add_row(name, *cells, _percent(row["accuracy"]), *([_percent(row["ce"])] if "ce" in row else []))
    mce = [_percent(report["mce"])] if "mce" in report else []
    out.add_row("mean", *[""] * len(severities), _percent(report["mean"]["accuracy"]), *mce, style="bold")
    return out


def corruption_figure(report: Mapping[str, Any], title: str) -> Figure:
    """Draw accuracy against severity, one panel for each corruption, with 95 % confidence intervals.

    The dashed line is the accuracy on uncorrupted images.
    """
    rows = report["corruptions"]
    wide, high = min(COLUMNS, len(rows)), math.ceil(len(rows) / COLUMNS)
    figure = Figure(figsize=(2.2 * wide + 0.6, 1.9 * high + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = figure.subplots(high, wide, squeeze=False, sharex=True, sharey=True)
    for panel in panels.flat[len(rows) :]:
        panel.set_axis_off()
    for panel, (name, row) in zip(panels.flat, rows.items(), strict=False):
        seen = {int(s): cell for s, cell in row["severities"].items() if cell is not None}
        values = [100 * cell["accuracy"] for cell in seen.values()]
        bounds = [cell["confidence_interval"] for cell in seen.values()]
        gaps = [[v - 100 * low, 100 * high - v] for v, (low, high) in zip(values, bounds, strict=True)]
        panel.errorbar(list(seen), values, yerr=list(zip(*gaps, strict=True)), marker=".", capsize=2, color="tab:blue")
        if "clean" in report:
            panel.axhline(100 * report["clean"]["accuracy"], color="tab:gray", linestyle="--", linewidth=1)
        panel.set(ylim=(0, 100), xticks=sorted(seen))
        panel.set_title(f"{name.replace('_', ' ')} {_percent(row['accuracy'])}", fontsize=9)
        panel.grid(alpha=0.3)
    figure.supxlabel("severity")
    figure.supylabel("accuracy in %")
    return figure


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"
