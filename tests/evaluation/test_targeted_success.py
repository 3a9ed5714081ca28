"""Targeted success: the counts are those of linear programming, on the samples that can be moved."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor
from torch.utils.data import DataLoader

import lightning_robust as lr
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.publish.run_report import write_report
from lightning_robust.threat import Threat
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.foreign import ForeignModule, images
from tests.publish.test_evaluate import NET, QUICK, X, Y

EPS = 0.3
THREAT = f"linf {EPS}"


def can_be_moved(target: int) -> Tensor:
    """Whether an image in the box within EPS exists on which the linear net says `target` [30], by linear programming.

    The greatest lead s over both other classes: (w_t - w_j) . x' + b_t - b_j >= s.
    """
    weight, bias = NET[1].weight.detach().double(), NET[1].bias.detach().double()
    others = [j for j in range(3) if j != target]
    ahead, offset = weight[target] - weight[others], bias[target] - bias[others]
    rows = torch.cat([-ahead, torch.ones(2, 1)], 1).numpy()
    leads = []
    for x in X.flatten(1).double():
        bounds = [(max(0.0, v - EPS), min(1.0, v + EPS)) for v in x.tolist()]
        best = linprog([0.0] * 16 + [-1.0], A_ub=rows, b_ub=offset.numpy(), bounds=[*bounds, (None, None)])
        leads.append(-best.fun)
    assert min(map(abs, leads)) > 1e-3  # none is so close that rounding decides
    return torch.tensor(leads) > 0


@pytest.mark.parametrize(
    "attack",
    [
        *("pgd50", "apgd-ce", "apgd-t", "fab", "transfer"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("square", "autoattack")),
    ],
)
def test_counts_are_those_of_linear_programming(attack: str) -> None:
    given: Any = {attack: lr.Transfer(lr.PGD(steps=50), NET)} if attack == "transfer" else attack
    report = lr.evaluate(NET, (X, Y), THREAT, given, targets=0, **QUICK)
    row = report.summary["threats"][THREAT]["targeted"]["0"]["attacks"][attack]
    counts = Y != 0
    assert row["n"] == int(counts.sum()) < 30
    wanted = int((can_be_moved(0) & counts).sum())
    assert 0 < wanted < row["n"]
    assert row["moved"] == (pytest.approx(wanted, abs=2) if attack == "square" else wanted)
    assert row["success"] == row["moved"] / row["n"]


def test_several_classes_and_the_plain_accuracy_stays() -> None:
    plain = lr.evaluate(NET, (X, Y), THREAT, "pgd20", **QUICK)
    report = lr.evaluate(NET, (X, Y), THREAT, ["pgd20", "deepfool"], targets=[0, 1], **QUICK)
    found = report.summary["threats"][THREAT]["targeted"]
    assert list(found) == ["0", "1"]
    for target in (0, 1):
        by_attack = {name: row["moved"] for name, row in found[str(target)]["attacks"].items()}
        assert by_attack["pgd20"] == int((can_be_moved(target) & (target != Y)).sum())
        assert found[str(target)]["any"]["moved"] == max(by_attack.values())
    pgd = report.summary["threats"][THREAT]["attacks"]["pgd20"]
    assert pgd["correct"] == plain.summary["threats"][THREAT]["attacks"]["pgd20"]["correct"]
    told = str(report)
    assert "any of them" in told
    assert f"{found['0']['any']['moved']}/{int((Y != 0).sum())}" in told
    assert max(map(len, told.splitlines())) <= 80


def test_random_classes_are_other_than_the_label_and_follow_the_seed() -> None:
    def classes(seed: int) -> Any:
        report = lr.evaluate(NET, (X, Y), THREAT, "pgd5", targets="random", seed=seed, **QUICK)
        row = report.summary["threats"][THREAT]["targeted"]["random"]["any"]
        assert row["n"] == 30 == sum(told["n"] for told in row["classes"].values())
        assert row["moved"] == sum(told["moved"] for told in row["classes"].values())
        return row["classes"]

    assert classes(0) == classes(0) != classes(1)


def test_the_least_likely_class_is_that_of_the_lowest_logit() -> None:
    report = lr.evaluate(NET, (X, Y), THREAT, "pgd50", targets="least_likely", **QUICK)
    row = report.summary["threats"][THREAT]["targeted"]["least_likely"]["any"]
    lowest = NET(X).argmin(1)
    wanted = {
        str(t): {"moved": int((can_be_moved(t) & (lowest == t) & (t != Y)).sum()), "n": n}
        for t in range(3)
        if (n := int(((lowest == t) & (t != Y)).sum()))
    }
    assert row["classes"] == wanted


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        ("likely", "Unknown targets 'likely'"),
        ([], "each once"),
        ([1, 1], "each once"),
        (-1, "numbers of classes >= 0"),
        (3, "There is no target class 3: the net has 3 classes"),
    ],
)
def test_mistakes_are_one_sentence(targets: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        lr.evaluate(NET, (X, Y), THREAT, "pgd1", targets=targets, **QUICK)


class Asked(lr.PGD):
    """Fails if it is run."""

    def _perturb(self, *args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("attacked")


def test_a_class_that_the_net_lacks_is_refused_before_any_attack() -> None:
    with pytest.raises(ValueError, match="no target class 3"):
        lr.evaluate(NET, (X, Y), THREAT, {"pgd": Asked(steps=1)}, targets=[0, 3], **QUICK)


def test_a_class_that_is_every_label_is_refused() -> None:
    with pytest.raises(ValueError, match="the label of all of them"):
        lr.evaluate(NET, (X[:5], torch.zeros(5, dtype=torch.int64)), THREAT, "pgd1", targets=0, **QUICK)


class Cut(lr.PGD):
    """Ends the evaluation when it has been called so often."""

    left = 0

    def _perturb(self, *args: Any, **kwargs: Any) -> Tensor:
        Cut.left -= 1
        if not Cut.left:
            raise KeyboardInterrupt
        return super()._perturb(*args, **kwargs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning tells of the interrupt
def test_after_a_kill_it_goes_on_and_finds_the_same(tmp_path: Path) -> None:
    given: Any = {"data": (X, Y), "threat": THREAT, "batch_size": 8, "targets": [0, 1], **QUICK}
    Cut.left = 1000
    wanted = lr.evaluate(NET, attacks={"pgd": Cut(steps=5)}, **given).summary["threats"][THREAT]["targeted"]
    calls = 1000 - Cut.left
    Cut.left = calls - 1  # in the second class
    with pytest.raises(SystemExit):
        lr.evaluate(NET, attacks={"pgd": Cut(steps=5)}, **given, out=tmp_path)
    Cut.left = 1000
    report = lr.evaluate(NET, attacks={"pgd": Cut(steps=5)}, **given, out=tmp_path)
    assert 1000 - Cut.left <= 2
    assert report.summary["threats"][THREAT]["targeted"] == wanted
    assert json.loads((tmp_path / "robustness.json").read_text())["targeted"] == wanted
    assert not list(tmp_path.glob("unfinished/*"))
    (page,) = write_report(str(tmp_path))
    assert f"{wanted['1']['any']['moved']} / {wanted['1']['any']['n']}" in page.read_text()


@pytest.mark.slow
# Lightning's advice to evaluate on one device: https://github.com/Lightning-AI/pytorch-lightning/issues/12862
@pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders")
def test_the_number_of_ranks_does_not_matter(tmp_path: Path) -> None:
    def tested(**settings: Any) -> Any:
        attacks: Any = {"pgd": lr.PGD(Threat("linf", 0.1), steps=5), "fab": lr.FAB(Threat("linf", 0.1), steps=5)}
        evaluation = RobustEvaluation(attacks, targets="random", check_samples=0, figure_samples=0, verbose=False)
        make = ddp_trainer if settings["ranks"] > 1 else quiet_trainer
        trainer = make(default_root_dir=tmp_path / str(settings["ranks"]), callbacks=[evaluation])
        trainer.test(ForeignModule(), DataLoader(images(23), 4), verbose=False)
        return evaluation.results[0].report["targeted"]

    alone = tested(ranks=1)
    assert run_ddp(lambda rank: tested(ranks=2)) == [alone, alone]
