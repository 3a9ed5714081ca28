"""Bar charts of results."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.common.tables import RESULTS
from benchmarks.common.timing import Spread


def bars(
    name: str,
    of: Mapping[str, Spread],
    quantity: str,
    limit: float | None = None,
    folder: Path = RESULTS,
) -> None:
    """Leave `results/<name>.png`: a bar with quartiles for each line of a table, and a line at what is required."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(8, 1 + 0.32 * len(of)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    labels, spreads = list(of)[::-1], list(of.values())[::-1]
    middle = [spread.median for spread in spreads]
    sides = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
    axes.barh(labels, middle, xerr=sides, color="tab:blue", alpha=0.8, error_kw={"elinewidth": 1, "capsize": 2})
    for place, spread in enumerate(spreads):
        said = axes.annotate(
            f"{spread.median:.3g}", (spread.high, place), xytext=(5, 0), textcoords="offset points", va="center"
        )
        said.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    if limit is not None:
        axes.axvline(limit, color="tab:red", lw=1, ls="--", label=f"required: {limit:g}")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    axes.set_xlabel(quantity)
    axes.set_xlim(0, 1.2 * max(spread.high for spread in spreads))
    axes.margins(y=0.01)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(folder / f"{name}.png", dpi=110)
