"""The accuracy reported of a random net is an unbiased estimate of its accuracy on the examples that were found."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_robust.attacks import APGD, FAB, PGD, Attack, AutoAttack, Ensemble
from lightning_robust.attacks.objectives import Loss
from lightning_robust.evaluation.accuracy_rows import mean_accuracy
from lightning_robust.evaluation.checksums import checksums
from lightning_robust.evaluation.evaluate import Evaluation
from lightning_robust.evaluation.images import Images
from lightning_robust.evaluation.random_nets import PASSES
from lightning_robust.evaluation.report import robustness
from lightning_robust.evaluation.report_table import table
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.soundness import examine
from lightning_robust.metrics.functional import wilson_interval
from lightning_robust.threat import Threat
from tests.helpers.toys import linear_net

N = 96


class Noisy(nn.Module):
    """Says 0 with the probability Phi(20 (mean - 0.5)), anew in each pass; with `scale` 0, where the mean is above."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        lead = 20 * (x.flatten(1).mean(1) - 0.5) + self.scale * torch.randn(len(x))
        return torch.stack([lead, torch.zeros_like(lead)], 1)

    @staticmethod
    def right(x: Tensor) -> Tensor:
        """The probability of class 0 [b]."""
        return (1 + torch.erf(20 * (x.flatten(1).mean(1) - 0.5) / math.sqrt(2))) / 2


def evaluated(
    net: nn.Module, attacks: dict[str, Attack], **settings: Any
) -> tuple[Evaluation, Samples, dict[str, Tensor]]:
    """All samples are of class 0, with means from 0.45 to 0.65; also the examples of each attack."""
    torch.manual_seed(0)
    x = torch.linspace(0.45, 0.65, N).view(N, 1, 1, 1).repeat(1, 1, 4, 4)
    y, index = torch.zeros(N, dtype=torch.int64), torch.arange(N)
    samples = Samples(index, y, net(x).argmax(1), checksums(x, y), index, index >= 0, Images.of(x))
    evaluation = Evaluation(attacks, batch_size=40)
    evaluation.prepare(samples)
    evaluation.run(net, samples, x.device, **settings)
    return evaluation, samples, {k: torch.stack([v[i][1] for i in range(N)]) for k, v in samples.examples.items()}


RUNS: dict[str, dict[str, Attack]] = {
    "rand": {
        "aa": Ensemble({name: APGD(Threat("linf", 0.04), steps=8, loss=name, eot=5) for name in ("ce", "dlr")}),  # type: ignore[arg-type]
    },
    "pgd": {"pgd": PGD(Threat("l2", 0.2), steps=3)},
    "two": {"pgd": PGD(Threat("linf", 0.04), steps=3), "apgd": APGD(Threat("linf", 0.04), steps=3)},
}


@pytest.mark.parametrize("name", RUNS)
def test_the_mean_over_new_passes_is_reported(name: str) -> None:
    run, samples, examples = evaluated(Noisy(), RUNS[name])
    assert run.random
    told = robustness(samples, run.attacks, {**run.seconds, "clean": 0.0}, [], {})
    deviation = math.sqrt(0.25 / N / PASSES)
    for attack, x_adv in examples.items():
        row = told["attacks"][attack]
        assert row["accuracy"] == pytest.approx(float(Noisy.right(x_adv).mean()), abs=4 * deviation)
        assert row["accuracy"] == pytest.approx(row["correct"] / N, abs=1e-4)
        low, high = row["confidence_interval"]
        assert low < row["accuracy"] < high
        assert row["passes"] == told["worst"]["passes"] == PASSES
        # every image moves by 0.04, or 0.2 / 4, in the mean, whatever its first pass said
        best = float(Noisy.right(samples.x[:] - (0.05 if name == "pgd" else 0.04)).mean())
        assert row["accuracy"] > best - 4 * deviation
        assert row["accuracy"] < best + (0.15 if attack == "apgd" else 0.05)  # it stops at the first error that it sees
    assert told["worst"]["accuracy"] <= min(row["accuracy"] for row in told["attacks"].values()) + 4 * deviation
    assert table(told, "title").row_count >= 3


def test_one_pass_for_each_stage_would_tell_less() -> None:
    """The measure that it replaces: a sample counts as broken by the first pass of several that errs."""
    _, samples, examples = evaluated(Noisy(), RUNS["rand"])
    once = (Noisy()(samples.x[:]).argmax(1) == 0) & (Noisy()(examples["aa"]).argmax(1) == 0)
    once &= Noisy()(examples["aa"]).argmax(1) == 0
    assert float(once.float().mean()) < float(Noisy.right(examples["aa"]).mean()) - 0.1


def test_a_search_for_the_nearest_counts_within_the_radius() -> None:
    run, samples, examples = evaluated(Noisy(), {"fab": FAB(Threat("linf", 0.04), steps=5)})
    inside = (examples["fab"] - samples.x[:]).flatten(1).abs().amax(1) <= 0.04
    judged = torch.where(
        inside[:, None, None, None] & samples.verdicts["fab"].size.isfinite()[:, None, None, None],
        examples["fab"],
        samples.x[:],
    )
    told = robustness(samples, run.attacks, {**run.seconds, "clean": 0.0}, [], {})
    assert told["attacks"]["fab"]["accuracy"] == pytest.approx(float(Noisy.right(judged).mean()), abs=0.05)


def test_a_net_that_is_not_random_is_counted_as_ever() -> None:
    run, samples, _ = evaluated(Noisy(0.0), RUNS["two"])
    assert not run.random
    told = robustness(samples, run.attacks, {**run.seconds, "clean": 0.0}, [], {})
    assert samples.verdicts["pgd"].accuracy.isnan().all()
    for row in (*told["attacks"].values(), told["worst"]):
        assert "passes" not in row
        assert row["correct"] == int((samples.x[:][:, 0, 0, 0] > 0.54 + 1e-6).sum())


@pytest.mark.parametrize(("eps", "stages"), [(0.025, ["ce"]), (0.1, ["ce", "dlr"])])
def test_the_plain_function_returns_examples_that_the_net_errs_on_most_often(eps: float, stages: list[Loss]) -> None:
    """Not the first points on which it errs: all pixels darker by eps are the worst for this net."""
    torch.manual_seed(0)
    x, threat = torch.linspace(0.45, 0.65, 30).view(30, 1, 1, 1).repeat(1, 1, 4, 4), Threat("linf", eps)
    attacks = {loss: APGD(threat, steps=6, loss=loss, eot=20) for loss in stages}
    for attack in (Ensemble(attacks), *attacks.values()):
        x_adv = attack(Noisy(), x, torch.zeros(30, dtype=torch.long))
        assert float(Noisy.right(x_adv).mean()) == pytest.approx(float(Noisy.right(x - eps).mean()), abs=0.02)


def test_what_the_net_is_right_on_now_and_then_is_left_to_the_next_stage() -> None:
    """Its images are kept for it, and the stage that broke it first counts."""
    attacks = {"start": PGD(Threat("linf", 0.04), steps=0), "apgd": APGD(Threat("linf", 0.04), steps=8, eot=20)}
    _, samples, examples = evaluated(Noisy(), {"both": Ensemble(attacks)}, wanted=torch.empty(0, dtype=torch.long))
    worst, begin = Noisy.right(samples.x[:] - 0.04), Noisy.right(samples.x[:])
    open_ = samples.verdicts["both"].held > 0
    assert samples.verdicts["both"].done[open_].eq(2).all()
    again = open_ & (samples.verdicts["both"].broken == 0)
    assert int(again.sum()) > 10
    assert float((begin - worst)[again].mean()) > 0.15
    assert float((Noisy.right(examples["both"]) - worst)[again].mean()) < 0.06


def test_the_interval_holds_the_accuracy_as_often_as_it_says() -> None:
    """Over other samples and other passes; as many samples with a fixed answer each would vary more."""
    n, runs, rng = 60, 2000, np.random.default_rng(0)
    for a, b in ((0.3, 0.3), (2, 2), (8, 1)):
        chances = rng.beta(a, b, (runs, n))
        shares = torch.tensor(rng.binomial(PASSES, chances) / PASSES)
        told = [mean_accuracy(row) for row in shares]
        bounds = torch.tensor([row["confidence_interval"] for row in told])
        held = (bounds[:, 0] <= a / (a + b)) & (a / (a + b) <= bounds[:, 1])
        assert float(held.double().mean()) == pytest.approx(0.95, abs=0.02)
        plain = torch.tensor([wilson_interval(row["correct"], n) for row in told])
        assert float((bounds[:, 1] - bounds[:, 0]).mean()) < 0.9 * float((plain[:, 1] - plain[:, 0]).mean())


def test_the_interval_of_a_net_that_is_always_or_never_right_is_that_of_its_samples() -> None:
    assert mean_accuracy(torch.tensor([1.0, 0, 1, 1]))["confidence_interval"] == pytest.approx(wilson_interval(3, 4))
    assert mean_accuracy(torch.zeros(9))["confidence_interval"] == pytest.approx(wilson_interval(0, 9))
    assert mean_accuracy(torch.ones(1))["confidence_interval"] == pytest.approx(wilson_interval(1, 1))


class BrokenAt(nn.Module):
    """Logits are NaN where the mean is below 0.5, as no clean image's is."""

    def forward(self, x: Tensor) -> Tensor:
        lead = x.flatten(1).mean(1) - 0.5
        return torch.stack([lead.masked_fill(lead < 0, torch.nan), 0 * lead - 1], 1)


@pytest.mark.parametrize("attack", [PGD(Threat("linf", 0.1), steps=2), AutoAttack(Threat("linf", 0.1), "rapid")])
def test_nan_on_an_example_is_an_error(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the attack, on a CPU; at the last look at its examples, where values are not read on the way."""
    x = torch.tensor([0.55, 0.9]).view(2, 1, 1, 1).repeat(1, 1, 4, 4)
    y, index = torch.zeros(2, dtype=torch.int64), torch.tensor([7, 8])
    for free in (True, False):
        monkeypatch.setattr("lightning_robust.attacks.base.reading_is_free", lambda x, free=free: free)
        stages = attack.stages or {"": attack}
        for stage in stages.values():
            stage._checked = True
        samples = Samples(index, y, y, checksums(x, y), index, index < 0, Images.of(x))
        run = Evaluation({"a": attack})
        run.prepare(samples)
        with pytest.raises(ValueError, match=r"NaN .*\(rows 0\)" if free else r"'a' made of 1 samples \(index 7\)"):
            run.run(BrokenAt(), samples, x.device)


def test_the_checks_take_masked_classes_and_infinite_boxes() -> None:
    x = 3 * torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    net = linear_net(torch.randn(3, 16, generator=torch.Generator().manual_seed(1)))
    masked = nn.Sequential(net, Mask()).eval()
    y = masked(x).argmax(1)
    checks = {
        check.name: check for check in examine(masked, x, y, {"pgd": PGD(Threat("l2", 0.1, -torch.inf, torch.inf))})
    }
    for name in ("deterministic", "independent", "inputs", "huge_radius", "gradients"):
        assert checks[name].status == "pass", checks[name].sentence


class Mask(nn.Module):
    """Adds a masked class."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([z, torch.full_like(z[:, :1], -torch.inf)], 1)
