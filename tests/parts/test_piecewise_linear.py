"""Rates that go linearly between milestones, against NumPy's interpolation."""

import re

import numpy as np
import pytest
import torch

from lightning_robust.parts.follows_run import run_length
from lightning_robust.parts.lr_schedules import PiecewiseLinearLR
from tests.parts.test_lr_schedules import rates, sgd


@pytest.mark.parametrize(
    ("milestones", "factors"),
    [
        ([0, 5, 12], [0.0, 1.0, 0.0]),
        ([2, 3, 7, 10], [0.5, 1.0, 1.0, 0.25]),
        ([0.0, 0.5, 1.0], [0.1, 1.0, 0.01]),
        ([0.0, 1 / 15, 0.4, 0.8, 1.0], [0.0, 1.0, 0.1, 0.01, 0.001]),
        ([4], [0.5]),
    ],
)
def test_as_numpy_interpolates(milestones: list[float], factors: list[float]) -> None:
    length = 12
    places = [m * length if isinstance(m, float) else m for m in milestones]
    found = rates(lambda o: PiecewiseLinearLR(o, milestones, factors), length, 15)
    assert found == pytest.approx(0.2 * np.interp(range(15), places, factors), abs=1e-12)


def test_a_milestone_that_stands_twice_is_a_jump() -> None:
    found = rates(lambda o: PiecewiseLinearLR(o, [0, 2, 4, 4, 6, 6], [0.0, 1.0, 1.0, 0.1, 0.1, 0.01]), epochs=8)
    assert found == pytest.approx([0.0, 0.1, 0.2, 0.2, 0.02, 0.02, 0.002, 0.002])


def test_a_longer_run_goes_on_along_its_own_milestones() -> None:
    first, second = sgd(), sgd()
    with run_length(lambda: 4):
        before = PiecewiseLinearLR(first, [0.0, 1.0], [1.0, 0.0])
    first.step()
    before.step()
    with run_length(lambda: 8):
        after = PiecewiseLinearLR(second, [0.0, 1.0], [1.0, 0.0])
    second.load_state_dict(first.state_dict())
    after.load_state_dict(before.state_dict())
    assert second.param_groups[0]["lr"] == pytest.approx(0.2 * 7 / 8)


@pytest.mark.parametrize(
    ("milestones", "factors", "told"),
    [
        ([0, 0.5], [1.0, 0.0], "whole numbers or all shares of the run in [0, 1], got [0, 0.5]"),
        ([0.0, 1.5], [1.0, 0.0], "whole numbers or all shares of the run in [0, 1]"),
        ([0, 5], [1.0], "Each milestone needs a factor >= 0, got [0, 5] and [1.0]"),
        ([0, 5], [1.0, -1.0], "Each milestone needs a factor >= 0"),
        ([], [], "Each milestone needs a factor >= 0"),
        ([5, 0], [1.0, 0.0], "Milestones must increase, got [5, 0]"),
        ([0.0, 1.0], [1.0, 0.0], "PiecewiseLinearLR takes milestones from the length of the run, which is not known"),
    ],
)
def test_what_cannot_be_a_schedule_is_refused(milestones: list[float], factors: list[float], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)), run_length(lambda: None):
        PiecewiseLinearLR(torch.optim.SGD([torch.zeros(1)], lr=1.0), milestones, factors)
