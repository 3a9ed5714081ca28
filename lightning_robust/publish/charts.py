"""The charts of a report: curves of a training, radii of the training samples, and runs against each other."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor


def curves_chart(curves: Mapping[str, Mapping[int, float]], label: str, percent: bool = False) -> Figure:
    """Draw logged numbers against the epoch.

    Args:
        curves: for each name, the values by epoch.
        label: of the vertical axis.
        percent: whether the values are shares, to be drawn between 0 and 100 %.

    Example:
        >>> figure = curves_chart({"train/loss": {0: 2.0, 1: 1.0}}, "loss")
        >>> figure.axes[0].get_ylabel()
        'loss'
    """
    figure, axis = _panel()
    for name, values in curves.items():
        epochs = sorted(values)
        axis.plot(
            epochs,
            [values[epoch] * (100 if percent else 1) for epoch in epochs],
            label=_label(name),
            marker="." if len(epochs) < 40 else None,
        )
    axis.set(xlabel="epoch", ylabel=label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if percent:
        axis.set_ylim(0, 100)
    axis.grid(alpha=0.5)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return figure


def radii_chart(radii: Tensor) -> Figure:
    """Draw how the radii of the training samples are distributed.

    Args:
        radii: in pixels in [0, 1] [n].

    Example:
        >>> import torch
        >>> radii_chart(torch.tensor([0.1, 0.2, 0.2])).axes[0].get_xlabel()
        'radius'
    """
    figure, axis = _panel()
    axis.hist(radii.numpy(), bins=40, color="tab:blue")
    axis.axvline(float(radii.median()), color="tab:orange", label=f"median {float(radii.median()):.4g}")
    axis.set(xlabel="radius", ylabel="training samples")
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return figure


def radii_curve(rows: Mapping[float, Mapping[str, Any]], norm: str) -> Figure:
    """Draw the accuracies at several radii, with 95 % confidence intervals.

    Args:
        rows: by the radius, `accuracy` and `confidence_interval`.
        norm: of the radii.

    Example:
        >>> row = {"accuracy": 0.5, "confidence_interval": [0.4, 0.6]}
        >>> radii_curve({0.0: row, 0.1: row}, "linf").axes[0].get_xlabel()
        'linf radius'
    """
    figure, axis = _panel()
    radii = sorted(rows)
    axis.plot(radii, [rows[radius]["accuracy"] for radius in radii], marker="o", color="tab:orange")
    low, high = zip(*(rows[radius]["confidence_interval"] for radius in radii), strict=True)
    axis.fill_between(radii, low, high, color="tab:orange", alpha=0.2, linewidth=0)
    axis.set(xlabel=f"{norm} radius", ylabel="accuracy", ylim=(0, 1), xlim=(0, None))
    axis.grid(alpha=0.5)
    return figure


class Point(NamedTuple):
    """A run in the plot of clean against robust accuracy.

    Args:
        name: of the run.
        clean: clean accuracy and its confidence interval (value, low, high), in [0, 1].
        robust: robust accuracy in the same form.
    """

    name: str
    clean: tuple[float, float, float]
    robust: tuple[float, float, float]


def trade_off_chart(points: Sequence[Point]) -> Figure:
    """Draw clean against robust accuracy of several runs, with 95 % confidence intervals.

    Example:
        >>> figure = trade_off_chart([Point("at", (0.9, 0.8, 0.95), (0.5, 0.4, 0.6))])
        >>> figure.axes[0].get_xlabel()
        'clean accuracy, %'
    """
    figure, axis = _panel(width=5.4, height=3.8)
    for point in points:
        (x, *around_x), (y, *around_y) = point.clean, point.robust
        axis.errorbar(
            [100 * x],
            [100 * y],
            xerr=[[100 * (x - around_x[0])], [100 * (around_x[1] - x)]],
            yerr=[[100 * (y - around_y[0])], [100 * (around_y[1] - y)]],
            fmt="o",
            capsize=3,
            elinewidth=1,
            label=_label(point.name),
        )
    axis.set(xlabel="clean accuracy, %", ylabel="robust accuracy, %")
    axis.grid(alpha=0.5)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return figure


def _label(name: str) -> str:
    """Write a name so that matplotlib neither takes it for mathematics nor leaves it out of the legend."""
    return name.replace("$", r"\$").removeprefix("_")


def _panel(width: float = 4.6, height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return figure, axis
