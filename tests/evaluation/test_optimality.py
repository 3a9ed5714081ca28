"""The optimality of attacks that look for the nearest example: AttackBench's measure."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_robust.attacks import FAB, FMN, PGD, AutoAttack
from lightning_robust.attacks.base import Attack
from lightning_robust.evaluation.optimality import optimalities, optimality
from lightning_robust.threat import Threat
from tests.helpers.evaluated import evaluated, verdicts

INF = math.inf
L2 = Threat("l2", 0.5)


def integral(size: Tensor, reach: float) -> float:
    """The area below the curve of accuracy against radius, by a fine grid."""
    radii = np.linspace(0, reach, 200_001)
    return float(np.trapezoid([(size.numpy() > radius).mean() for radius in radii], radii))


def test_it_is_the_share_of_the_area_between_the_best_curve_and_none() -> None:
    best = torch.tensor([0.0, 0.3, 0.5, 1.1, INF])  # of the last no example is known: the radius ends at 1.1
    size = torch.tensor([0.0, 0.4, 0.5, INF, INF])
    area, least = integral(size, 1.1), integral(best, 1.1)
    assert optimality(size, best) == pytest.approx(1 - (area - least) / (0.8 * 1.1 - least), abs=1e-4)
    assert optimality(best, best) == 1
    assert optimality(torch.where(best > 0, INF, 0.0), best) == 0


@pytest.mark.parametrize("best", [[0.0, 0.0], [INF, INF], [0.0, INF], []])
def test_it_is_unknown_where_no_example_is(best: list[float]) -> None:
    assert math.isnan(optimality(torch.tensor(best), torch.tensor(best)))


def found(size: list[float], broken: list[bool] | None = None) -> Any:
    sizes = torch.tensor(size, dtype=torch.float64)
    was = sizes <= 0.5 if broken is None else torch.tensor(broken)
    predicted = torch.where(was, 1, 0)
    return verdicts(broken=torch.where(was, 0, -1), predicted=predicted, size=sizes)


def test_it_is_told_of_attacks_that_can_be_compared() -> None:
    """An attack within the radius counts where it broke the sample; what is wrong without an attack counts 0."""
    attacks: dict[str, Attack] = {
        "fab": FAB(L2),
        "fmn": FMN(L2),
        "aa": AutoAttack(L2, "rapid"),
        "l1": FAB(Threat("l1", 4)),
        "pgd": PGD(),
    }
    verdicts_of = {
        "fab": found([0.75, INF, 0.4, 0.0]),
        "fmn": found([0.6, 0.8, 0.5, 0.0]),
        "aa": found([0.5, 0.5, 0.3, 0.0], [False, False, True, False]),
        "l1": found([1.0, 2.0, 3.0, 0.0]),
        "pgd": found([0.5, 0.5, 0.5, 0.0]),
    }
    samples = evaluated(y=torch.zeros(4, dtype=torch.long), clean=torch.tensor([0, 0, 0, 1]), found=verdicts_of)
    told = optimalities(samples, attacks)
    best = torch.tensor([0.6, 0.8, 0.3, 0.0])
    assert told == {
        "fab": pytest.approx(optimality(torch.tensor([0.75, INF, 0.4, 0.0]), best)),
        "fmn": pytest.approx(optimality(torch.tensor([0.6, 0.8, 0.5, 0.0]), best)),
    }
    assert 0 < told["fab"] < told["fmn"] < 1
