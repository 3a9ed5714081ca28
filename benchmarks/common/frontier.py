"""Clean against robust accuracy as a figure in which every point can be named."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

FAMILIES = {"emr": "tab:orange", "iaat": "tab:green", "st": "tab:blue", "at": "black", "standard": "black"}
"""Colours by what a recipe's name begins with; the others are grey."""


class Point(NamedTuple):
    """Means and standard deviations of a recipe's accuracies."""

    recipe: str
    clean: float
    robust: float
    clean_deviation: float
    robust_deviation: float

    @classmethod
    def of(cls, recipe: str, runs: Sequence[Any]) -> "Point":
        clean, robust = [run.clean for run in runs], [run.robust for run in runs]
        return cls(recipe, statistics.mean(clean), statistics.mean(robust), _deviation(clean), _deviation(robust))


def frontier(runs: Sequence[Any], attack: str = "PGD-50") -> Figure:
    """A panel for each radius; names stand beside it, in the order of the points' heights, led to their points.

    Args:
        runs: objects with `recipe`, `eps`, `clean` and `robust`, the accuracies in percent.
        attack: under which they are robust.
    """
    radii = sorted({run.eps for run in runs})
    figure = Figure(figsize=(8.2 * len(radii), 6.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, eps in zip(figure.subplots(1, len(radii), squeeze=False)[0], radii, strict=True):
        here = [run for run in runs if run.eps == eps]
        points = [Point.of(name, [r for r in here if r.recipe == name]) for name in sorted({r.recipe for r in here})]
        _panel(axes, sorted(points, key=lambda point: (point.robust, -point.clean)))
        axes.set_title(f"linf eps = {eps:g}")
        axes.set(xlabel="clean accuracy (%)", ylabel=f"accuracy under {attack} (%)")
    return figure


def _panel(axes: Any, points: Sequence[Point]) -> None:
    left, bottom = _start([p.clean for p in points]), _start([p.robust for p in points])
    right, top = max(p.clean + p.clean_deviation for p in points), max(p.robust + p.robust_deviation for p in points)
    axes.set_xlim(left, right + 0.03 * (right - left))
    axes.set_ylim(bottom, top + 0.03 * (top - bottom))
    for place, (recipe, x, y, dx, dy) in enumerate(points):
        colour = FAMILIES.get(recipe.split("_")[0], "tab:gray")
        at, inside = (max(x, left), max(y, bottom)), x >= left and y >= bottom
        if inside:
            axes.errorbar(x, y, xerr=dx, yerr=dy, color=colour, elinewidth=0.7, alpha=0.45)
        axes.plot(*at, "o" if inside else "v", color=colour, markersize=6, clip_on=False, zorder=3)
        axes.annotate(
            recipe if inside else f"{recipe} ({x:.1f}, {y:.1f}: off the scale)",
            at,
            xytext=(1.06, (place + 0.5) / len(points)),
            textcoords="axes fraction",
            color=colour,
            va="center",
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.5, "alpha": 0.5, "relpos": (0, 0.5)},
        )
    axes.grid(alpha=0.3)


def _start(values: Sequence[float]) -> float:
    """Where an axis begins: values far below the others would leave these no room."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    least = min(value for value in values if value >= low - 3 * max(high - low, 1.0))
    return least - 0.06 * max(max(values) - least, 1.0)


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
