"""The checks of an evaluation in l0, where neither PGD, APGD nor Square works."""

import pytest
import torch
from torch import nn

import lightning_robust as lr
from lightning_robust.attacks import Ensemble, NearestExamples, SigmaZero, SparseRS
from lightning_robust.attacks.base import Attack
from lightning_robust.evaluation.soundness import examine
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from tests.evaluation.test_soundness import NO_GAIN, N, statuses, wrapped
from tests.evaluation.test_soundness import SILENT as SILENT_ELSEWHERE
from tests.helpers.trained import held_out, trained_net

L0 = Threat("l0", 3)
SILENT = {name: status for name, status in SILENT_ELSEWHERE.items() if name != "black_box"}
"""In l0 the strong attack searches without gradients itself."""


def told(net: nn.Module, attack: Attack) -> dict[str, str]:
    x, y = held_out(N)
    standing = net(attack(net, x, y, rng=SampleRNG(1, torch.arange(N)))).argmax(1) == y
    assert standing.any()
    return statuses(examine(net, x, y, {"attack": attack}, None, standing, SampleRNG(0, torch.arange(N))))


@pytest.mark.parametrize("robust", [False, True], ids=["standard", "robust"])
@pytest.mark.slow
def test_silent_on_sound_nets(robust: bool) -> None:
    """Of gradients alone up to a fifth of the samples is missed."""
    threat = Threat("l0", 3 if robust else 2)
    attacks = Ensemble({"sigma-zero": SigmaZero(threat, steps=200), "sparse-rs": SparseRS(threat, queries=500)})
    assert told(trained_net(robust), attacks) == SILENT


@pytest.mark.slow
def test_an_evaluation_by_gradients_alone_is_told_what_it_misses() -> None:
    net, (x, y) = trained_net(), held_out(N)
    by_gradients = NearestExamples(L0)(net, x, y)
    left = (net(by_gradients).argmax(1) == y).sum() - (net(SparseRS(L0, queries=500)(net, x, y)).argmax(1) == y).sum()
    assert left > 0.15 * N
    assert told(net, NearestExamples(L0)) == {**SILENT, "strength": "warn" if left <= 0.25 * N else "fail"}


def test_an_evaluation_that_is_too_weak_is_told() -> None:
    assert told(trained_net(), SigmaZero(L0, steps=3))["strength"] == "fail"


@pytest.mark.slow
def test_gradients_that_are_masked_are_told() -> None:
    net = wrapped(lambda x: (8 * x).round() / 8)
    assert told(net, SigmaZero(L0, steps=100)) == {**SILENT, **NO_GAIN, "strength": "fail"}


def test_an_evaluation_in_l0_ends_with_its_checks() -> None:
    """In 500 queries at 2 values Sparse-RS and sigma-zero leave each other little."""
    attacks: dict[str, Attack] = {"sigma": SigmaZero(steps=100), "rs": SparseRS(queries=500)}
    report = lr.evaluate(trained_net(), held_out(16), "l0 2", attacks=attacks, batch_size=16)
    assert 0 < report.accuracy() < 1
    assert report.sound, report.doubts()
