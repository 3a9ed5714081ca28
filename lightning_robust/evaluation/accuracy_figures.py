"""Figures of an evaluation: accuracy against radius, and accuracy by class."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from lightning_robust.attacks.base import Attack
from lightning_robust.evaluation.samples import Samples
from lightning_robust.metrics.functional import wilson_interval
from lightning_robust.utils.messages import shorten

FEW_CLASSES = 30
"""The largest number of classes that are drawn as bars with names; more are drawn as a sorted curve."""


def accuracy_by_radius(samples: Samples, attacks: Mapping[str, Attack]) -> Figure | None:
    """Draw accuracy against radius, with one panel for each norm in which an attack looks for the nearest example.

    A sample counts as broken at every radius that its nearest example lies within. The accuracy under any other attack
    is a point at its radius. Bands and bars are 95 % confidence intervals.

    Args:
        samples: all samples, with the attacks' verdicts.
        attacks: the attacks by name.

    Returns:
        The figure, or None if no attack looks for the nearest example.
    """
    nearest = {name: attack for name, attack in attacks.items() if attack.minimizes}
    norms = list(dict.fromkeys(attack.threat.norm for attack in nearest.values()))
    if not norms:
        return None
    right, n = samples.right, len(samples)
    figure = Figure(figsize=(4.5 * len(norms), 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    for norm, axis in zip(norms, figure.subplots(1, len(norms), squeeze=False)[0], strict=True):
        shown = {name: attack for name, attack in attacks.items() if attack.threat.norm == norm}
        sizes = {name: torch.where(right, samples.verdicts[name].size, 0.0) for name in shown if name in nearest}
        radii = torch.linspace(0, _reach(sizes, shown), 200)
        for name, attack in shown.items():
            if name in sizes:
                counts = [int(((sizes[name] > radius) & right).sum()) for radius in radii.tolist()]
                bounds = [wilson_interval(count, n) for count in counts]
                (line,) = axis.plot(radii, [count / n for count in counts], label=name)
                axis.fill_between(radii, *zip(*bounds, strict=True), color=line.get_color(), alpha=0.2, linewidth=0)
            else:
                count = int(samples.robust([name]).sum())
                low, high = wilson_interval(count, n)
                gap = [[count / n - low], [high - count / n]]
                axis.errorbar([attack.threat.eps], [count / n], yerr=gap, fmt="o", capsize=3, label=name)
        axis.set(xlabel=f"{norm} radius", ylabel="accuracy", ylim=(0, 1), xlim=(0, float(radii[-1])))
        axis.grid(alpha=0.3)
        _legend(axis)
    return figure


def accuracy_by_class(samples: Samples, attacks: Mapping[str, Attack], names: Sequence[str] | None = None) -> Figure:
    """Draw the clean and the worst-case accuracy of each class, with 95 % confidence intervals.

    Args:
        samples: all samples, with the attacks' verdicts.
        attacks: the attacks by name, which the worst case is over.
        names: of the classes; their numbers by default.
    """
    y = samples.y
    masks = {"clean": samples.right, "worst case": samples.robust(attacks)}
    classes = torch.unique(y).tolist()
    width = 4.5 if len(classes) > FEW_CLASSES else max(4.5, min(0.45 * len(classes) + 1.5, 8))
    figure = Figure(figsize=(width, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for place, (name, mask) in enumerate(masks.items()):
        counts = [(int(mask[y == label].sum()), int((y == label).sum())) for label in classes]
        shares = [count / n for count, n in counts]
        if len(classes) > FEW_CLASSES:
            axis.plot(sorted(shares), label=name)
            continue
        bounds = [wilson_interval(count, n) for count, n in counts]
        gaps = list(zip(*((s - low, high - s) for s, (low, high) in zip(shares, bounds, strict=True)), strict=True))
        where = [k + 0.4 * (place - 0.5) for k in range(len(classes))]
        axis.bar(where, shares, width=0.4, yerr=gaps, capsize=2, label=name, error_kw={"linewidth": 0.8})
        shown = [str(label) if names is None else shorten(names[label]) for label in classes]
        look: dict[str, Any] = {"rotation": 45, "ha": "right"} if max(map(len, shown)) > 3 else {}
        axis.set_xticks(range(len(classes)), shown, parse_math=False, **look)
    axis.set(xlabel="class" if len(classes) <= FEW_CLASSES else "classes, sorted", ylabel="accuracy", ylim=(0, 1.05))
    axis.margins(x=0.02)
    _legend(axis)
    return figure


def _reach(sizes: Mapping[str, Tensor], attacks: Mapping[str, Attack]) -> float:
    """Return the end of the radius axis: beyond 98 % of the sizes found, and beyond every attack's own radius."""
    finite = [size[size.isfinite()] for size in sizes.values()]
    ends = [float(size.quantile(0.98)) for size in finite if len(size)]
    return 1.05 * max(1e-12, *ends, *(attack.threat.eps for attack in attacks.values()))


def _legend(axis: Any) -> None:
    # above the panel, where it hides no data
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
