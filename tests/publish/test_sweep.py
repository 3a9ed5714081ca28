"""Several radii from one run: equal to a plain loop over the radii, of the same distances."""

from pathlib import Path
from typing import Any

import pytest
import torch

import lightning_robust as lr
from lightning_robust.attacks.minimum_norm import minimum_norms
from lightning_robust.evaluation.checksums import checksums
from lightning_robust.publish.evaluations import evaluations_in
from lightning_robust.runtime.rng import SampleRNG
from tests.publish.test_evaluate import NET, QUICK, X, Y

RADII = [0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15]
THREATS = [f"linf {eps}" for eps in RADII]


class Counted(lr.FAB):
    """FAB that counts how often it is called."""

    calls = 0

    def nearest(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        Counted.calls += 1
        return super().nearest(*args, **kwargs)


def test_accuracy_at_each_radius_is_the_share_of_larger_distances() -> None:
    Counted.calls = 0
    report = lr.evaluate(NET, (X, Y), [THREATS[3], *THREATS[:3], *THREATS[4:]], {"fab": Counted(steps=20)}, **QUICK)
    assert Counted.calls == 1
    fab = lr.FAB(lr.Threat("linf", max(RADII)), steps=20)
    distance = minimum_norms(fab, NET, X, Y, rng=SampleRNG(0, checksums(X, Y))).double()
    for eps, threat in zip(RADII, THREATS, strict=True):
        wanted = sum(d > eps for d in distance.tolist()) / len(X)
        assert report.accuracy(threat) == pytest.approx(wanted)
        assert report.summary["threats"][threat]["attacks"]["fab"]["accuracy"] == pytest.approx(wanted)
    accuracies = [report.accuracy(threat) for threat in THREATS]
    assert accuracies == sorted(accuracies, reverse=True)
    assert len(set(accuracies)) > 3
    assert list(report.evaluations) == [THREATS[3], *THREATS[:3], *THREATS[4:]]


def test_each_radius_is_as_if_it_had_been_run_alone() -> None:
    settings: Any = {"attacks": {"deepfool": lr.DeepFool(), "fab": lr.FAB(steps=10)}, "calibration": True, **QUICK}
    swept = lr.evaluate(NET, (X, Y), ["l2 0.3", "linf 0.05", "l2 0.1"], **settings)
    for threat in ("l2 0.3", "linf 0.05", "l2 0.1"):
        alone = lr.evaluate(NET, (X, Y), threat, **settings)
        assert torch.equal(swept.robust(threat), alone.robust(threat))
        assert swept.calibration(threat) == alone.calibration(threat)
        for name, row in alone.summary["threats"][threat]["attacks"].items():
            assert row["correct"] == swept.summary["threats"][threat]["attacks"][name]["correct"]


def test_an_attack_within_the_radius_is_run_at_each() -> None:
    Counted.calls = 0
    lr.evaluate(NET, (X, Y), THREATS[:3], {"fab": Counted(steps=2), "pgd": lr.PGD(steps=1)}, **QUICK)
    assert Counted.calls == 3


def test_a_random_net_is_run_at_each_radius() -> None:
    class Noisy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return NET(x) + 2 * torch.randn(len(x), 3)

    Counted.calls = 0
    lr.evaluate(Noisy(), (X, Y), THREATS[:3], {"fab": Counted(steps=2)}, **QUICK)
    assert Counted.calls == 3


@pytest.mark.slow
def test_files_lie_there_for_every_radius(tmp_path: Path) -> None:
    report = lr.evaluate(NET, (X, Y), THREATS, "fab", out=tmp_path, check_samples=8, accelerator="cpu")
    kept = {evaluation.threats[0]: evaluation for evaluation in evaluations_in(tmp_path)}
    assert set(kept) == set(THREATS)
    for threat in THREATS:
        assert kept[threat].samples is not None
        assert torch.equal(report.robust(threat), kept[threat].samples.robust())
        assert bool(kept[threat].report["checks"]) == (threat == THREATS[-1])
        assert kept[threat].report.get("swept_from") == (None if threat == THREATS[-1] else THREATS[-1])
