"""Figures of an evaluation: what they show is what was counted."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lightning_robust.attacks import CW, FAB, PGD, AutoAttack
from lightning_robust.evaluation.accuracy_figures import FEW_CLASSES, accuracy_by_class, accuracy_by_radius
from lightning_robust.evaluation.samples import Samples
from lightning_robust.metrics.functional import wilson_interval
from lightning_robust.threat import Threat
from tests.helpers.evaluated import evaluated, verdicts

L2, LINF = Threat("l2", 0.5), Threat("linf", 0.1)
Y = torch.tensor([0, 0, 1, 1, 2, 2, 2, 2])
CLEAN = torch.tensor([0, 1, 1, 1, 2, 2, 2, 0])  # the second and the last are wrong
SIZE = torch.tensor([0.1, 0.0, 0.2, 0.4, 0.5, 0.7, torch.inf, 0.0], dtype=torch.float64)


def by_size(**sizes: Tensor) -> Samples:
    """What minimum-norm attacks with the radius 0.5 found, by the sizes of their examples."""
    return evaluated(Y, CLEAN, {name: verdicts(torch.where(size <= 0.5, 0, -1), size) for name, size in sizes.items()})


def panels(figure: Figure | None) -> list[Axes]:
    assert figure is not None
    return figure.axes


def test_a_curve_counts_what_lies_beyond_the_radius() -> None:
    (axis,) = panels(accuracy_by_radius(by_size(fab=SIZE), {"fab": FAB(L2)}))
    radii, accuracy = axis.lines[0].get_data()
    right = [size for size, label, said in zip(SIZE.tolist(), Y, CLEAN, strict=True) if label == said]
    expected = [sum(size > radius for size in right) / 8 for radius in np.asarray(radii).tolist()]
    assert accuracy == pytest.approx(expected)
    assert (radii[0], accuracy[0], accuracy[-1]) == (0, 6 / 8, 1 / 8)  # what nothing breaks counts everywhere
    assert len(set(expected)) == 6  # every step is seen
    assert (np.diff(accuracy) <= 0).all()
    assert axis.get_xlabel() == "l2 radius"


def test_the_band_is_the_confidence_interval() -> None:
    (axis,) = panels(accuracy_by_radius(by_size(fab=SIZE), {"fab": FAB(L2)}))
    (band,) = axis.collections
    corners = band.get_paths()[0].vertices
    at_zero = sorted({float(height) for radius, height in corners if radius == 0})
    assert at_zero == pytest.approx(wilson_interval(6, 8))


def test_attacks_of_one_radius_are_points_and_norms_have_panels_of_their_own() -> None:
    attacks: dict[str, Any] = {"fab": FAB(L2), "autoattack": AutoAttack(L2), "cw": CW(L2), "fab-linf": FAB(LINF)}
    found = by_size(fab=SIZE, cw=2 * SIZE, **{"fab-linf": 0.1 * SIZE})
    for name, threat in {"autoattack": L2, "pgd": LINF, "l1": Threat("l1", 3.0)}.items():
        attacks.setdefault(name, PGD(threat))
        found.verdicts[name] = verdicts(torch.tensor([3, -1, 0, 0, -1, -1, -1, -1]), SIZE)
    first, second = panels(accuracy_by_radius(found, attacks))
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["fab", "cw", "autoattack"]
    assert [text.get_text() for text in second.get_legend().get_texts()] == ["fab-linf", "pgd"]
    assert (first.get_xlabel(), second.get_xlabel()) == ("l2 radius", "linf radius")
    for axis, eps in ((first, 0.5), (second, 0.1)):
        (bar,) = axis.containers
        ((x,), (y,)) = bar[0].get_data()
        assert (x, y) == (eps, 3 / 8)
        (((_, low), (_, high)),) = bar[2][0].get_segments()
        assert (low, high) == pytest.approx(wilson_interval(3, 8))
    ends = [line.get_xdata()[-1] for line in first.lines if line.get_label() in ("fab", "cw")]
    assert ends == pytest.approx([first.get_xlim()[1]] * 2)


def test_there_is_no_curve_where_no_attack_looks_for_the_nearest() -> None:
    assert accuracy_by_radius(by_size(pgd=SIZE), {"pgd": PGD(L2)}) is None


def test_nothing_found_or_nothing_right_is_drawn_too() -> None:
    found = by_size(fab=torch.full((8,), torch.inf, dtype=torch.float64))
    (axis,) = panels(accuracy_by_radius(found, {"fab": FAB(L2)}))
    assert set(np.asarray(axis.lines[0].get_ydata()).tolist()) == {6 / 8}
    wrong = replace(by_size(fab=SIZE), clean=(Y + 1) % 3)
    (axis,) = panels(accuracy_by_radius(wrong, {"fab": FAB(Threat("l2", 0.0))}))
    assert set(np.asarray(axis.lines[0].get_ydata()).tolist()) == {0}
    accuracy_by_class(wrong, {"fab": FAB(L2)}).canvas.draw()  # type: ignore[attr-defined]


def test_accuracy_of_each_class() -> None:
    found = by_size(fab=SIZE, cw=SIZE.roll(1))  # of what fab leaves, 5 and 6, cw breaks 5
    (axis,) = panels(accuracy_by_class(found, {"fab": FAB(L2), "cw": CW(L2)}))
    clean, worst = ([bar.get_height() for bar in bars] for bars in axis.containers if hasattr(bars, "patches"))
    assert clean == pytest.approx([1 / 2, 2 / 2, 3 / 4])
    assert worst == pytest.approx([0, 0, 1 / 4])
    (axis,) = panels(accuracy_by_class(by_size(fab=SIZE), {"fab": FAB(L2)}))
    _, worst = ([bar.get_height() for bar in bars] for bars in axis.containers if hasattr(bars, "patches"))
    assert worst == pytest.approx([0, 0, 2 / 4])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1", "2"]
    gaps = axis.collections[1].get_segments()  # the worst case's
    assert [tuple(gap[:, 1]) for gap in gaps] == [
        pytest.approx(wilson_interval(0, 2), abs=1e-9),
        pytest.approx(wilson_interval(0, 2), abs=1e-9),
        pytest.approx(wilson_interval(2, 4)),
    ]


@pytest.mark.parametrize("classes", [FEW_CLASSES, FEW_CLASSES + 1])
def test_many_classes_are_sorted_by_accuracy(classes: int) -> None:
    y = torch.arange(classes).repeat(10)
    clean = torch.where(torch.arange(len(y)) % 7 == 0, (y + 1) % classes, y)
    found = evaluated(y, clean, {"pgd": verdicts(torch.where(torch.arange(len(y)) % 2 == 0, 0, -1))})
    (axis,) = panels(accuracy_by_class(found, {"pgd": PGD(L2)}))
    shares = [float((clean == y)[y == label].double().mean()) for label in range(classes)]
    if classes == FEW_CLASSES:
        assert [bar.get_height() for bar in axis.patches[:classes]] == pytest.approx(shares)
    else:
        assert axis.lines[0].get_ydata() == pytest.approx(sorted(shares))
        assert len(axis.lines) == 2


@pytest.mark.parametrize("classes", [2, 10, 30, 100])
def test_no_text_lies_on_another_or_on_the_data(classes: int) -> None:
    y = torch.arange(classes).repeat(10)
    found = evaluated(y, y, {"fab": verdicts(torch.where(y < classes / 2, 0, -1), y / classes)})
    for figure in (accuracy_by_class(found, {"fab": FAB(L2)}), accuracy_by_radius(found, {"fab": FAB(L2)})):
        (axis,) = panels(figure)
        axis.figure.canvas.draw()  # type: ignore[union-attr]
        labels = [label.get_window_extent() for label in axis.get_xticklabels() if label.get_text()]
        inside = [box for box in labels if 0 < box.x0 < axis.figure.bbox.x1]
        assert all(left.x1 < right.x0 for left, right in pairwise(inside))
        assert axis.get_legend().get_window_extent().y0 >= axis.get_window_extent().y1
