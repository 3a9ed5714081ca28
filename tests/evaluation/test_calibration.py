"""Calibration is torchmetrics' and a plain loop's, on the clean images and on the examples of the worst case."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassCalibrationError

import lightning_robust as lr
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.evaluation.calibration import calibration
from lightning_robust.evaluation.checksums import checksums
from lightning_robust.evaluation.scores import scores
from lightning_robust.publish.run_report import write_report
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.foreign import ForeignModule, images
from tests.publish.test_evaluate import NET, QUICK, X, Y

THREAT = Threat("linf", 0.05)
ATTACKS = {"weak": lr.PGD(steps=1, start="none"), "noise": lr.PGD(steps=0)}


def by_torchmetrics(logits: Tensor, y: Tensor) -> dict[str, float]:
    p = logits.softmax(1)
    ece = MulticlassCalibrationError(num_classes=logits.shape[1], n_bins=15)
    brier = sum(float(row[k] - int(k == c)) ** 2 for row, c in zip(p, y.tolist(), strict=True) for k in range(len(row)))
    return {"ece": float(ece(p, y)), "nll": float(cross_entropy(logits, y)), "brier": float(brier) / len(y)}


def worst_logits(attacks: dict[str, lr.PGD]) -> Tensor:
    """Of each sample on its own: what broke it, or else the greatest loss; what is wrong already stays."""
    found = []
    for i in range(len(X)):
        x, y = X[i : i + 1], Y[i : i + 1]
        logits = [NET(x)]
        if int(logits[0].argmax()) == int(y):
            for attack in attacks.values():
                rng = SampleRNG(0, checksums(x, y))
                logits.append(NET(attack.with_threat(THREAT)(NET, x, y, rng=rng)))
            broken = [z for z in logits if int(z.argmax()) != int(y)]
            logits = broken or logits
        found.append(max(logits, key=lambda z: float(cross_entropy(z.detach(), y))))
    return torch.cat(found).detach()


def test_it_is_that_of_a_plain_loop() -> None:
    report = lr.evaluate(NET, (X, Y), str(THREAT), ATTACKS, calibration=True, **QUICK)
    logits = worst_logits(ATTACKS)
    assert 0 < report.accuracy(str(THREAT)) < report.accuracy()
    assert float((logits.argmax(1) == Y).double().mean()) == pytest.approx(report.accuracy(str(THREAT)))
    assert report.calibration() == pytest.approx(by_torchmetrics(NET(X).detach(), Y), abs=1e-6)
    assert report.calibration(str(THREAT)) == pytest.approx(by_torchmetrics(logits, Y), abs=1e-6)
    assert report.summary["threats"][str(THREAT)]["calibration"] == report.calibration(str(THREAT))
    told = " ".join(str(report).split())
    assert f"{report.calibration(str(THREAT))['nll']:.4f}" in told
    assert "calibration" not in lr.evaluate(NET, (X, Y), str(THREAT), ATTACKS, **QUICK).to_json()


def test_an_example_beyond_the_radius_does_not_count() -> None:
    """A search for the nearest finds it; within this radius none is, so that all count with their clean image."""
    report = lr.evaluate(NET, (X, Y), "linf 1e-05", "deepfool", calibration=True, **QUICK)
    assert report.calibration("linf 1e-05") == report.calibration()


def test_a_larger_radius_counts_what_a_smaller_one_found() -> None:
    class Weaker(lr.PGD):
        """Stays where it is at the larger radius."""

        def __call__(self, net: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return super().__call__(net, x, *args, **kwargs) if self.threat.eps < 0.06 else x

    report = lr.evaluate(NET, (X, Y), ["linf 0.05", "linf 0.1"], {"a": Weaker(steps=5)}, calibration=True, **QUICK)
    assert report.calibration("linf 0.1") == report.calibration("linf 0.05") != report.calibration()


def test_a_masked_label_leaves_the_nll_out() -> None:
    logits = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]])
    told = calibration(scores(logits, torch.tensor([1, 1])), torch.tensor([False, False]))
    assert told["nll"] is None
    assert told["brier"] == pytest.approx((2 + 0.5) / 2)


def test_logits_that_are_nan_end_the_evaluation() -> None:
    class Nan(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return NET(x) * (1 if x.amax() <= 0.999 else torch.nan)

    with pytest.raises(ValueError, match="logits are not finite"):
        lr.evaluate(Nan(), (X.clone().fill_(1.0), Y), str(THREAT), "pgd3", calibration=True, **QUICK)


def test_a_random_net_has_that_of_its_clean_images_alone() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return NET(x) + 2 * torch.randn(len(x), 3)

    report = lr.evaluate(Noisy(), (X, Y), str(THREAT), "pgd3", calibration=True, **QUICK)
    assert set(report.summary["calibration"]) == {"ece", "nll", "brier"}
    assert "calibration" not in report.summary["threats"][str(THREAT)]


class Cut(lr.PGD):
    """Ends the process's evaluation at its third call, once."""

    left = 2

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        if not Cut.left:
            Cut.left = -1
            raise KeyboardInterrupt
        Cut.left -= 1
        return super().__call__(*args, **kwargs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning tells of the interrupt
def test_after_a_kill_it_is_the_same(tmp_path: Path) -> None:
    given: Any = {"data": (X, Y), "threat": "linf 0.05", "batch_size": 8, "calibration": True, **QUICK}
    wanted = lr.evaluate(NET, attacks={"pgd": lr.PGD(steps=3)}, **given).summary["threats"]["linf 0.05"]["calibration"]
    with pytest.raises(SystemExit):
        lr.evaluate(NET, attacks={"pgd": Cut(steps=3)}, **given, out=tmp_path)
    assert list(tmp_path.glob("unfinished/*/*.pt"))
    report = lr.evaluate(NET, attacks={"pgd": Cut(steps=3)}, **given, out=tmp_path)
    assert report.summary["threats"]["linf 0.05"]["calibration"] == wanted
    kept = json.loads((tmp_path / "robustness.json").read_text())["calibration"]
    assert kept["worst"] == wanted
    (page,) = write_report(str(tmp_path))
    assert f"<td>{wanted['brier']:.4f}</td>" in page.read_text()


@pytest.mark.slow
# Lightning's advice to evaluate on one device: https://github.com/Lightning-AI/pytorch-lightning/issues/12862
@pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders")
def test_the_number_of_ranks_does_not_matter(tmp_path: Path) -> None:
    def tested(trainer: Any) -> dict[str, float]:
        evaluation = trainer.callbacks[0]
        trainer.test(ForeignModule(), DataLoader(images(23), 4), verbose=False)
        logged = {f"test/{name}_ece" for name in ("clean", "worst")}
        assert logged <= trainer.callback_metrics.keys()
        return evaluation.results[0].report["calibration"]  # type: ignore[no-any-return]

    def evaluation() -> RobustEvaluation:
        attacks: Any = {"weak": lr.PGD(Threat("linf", 0.06), steps=3), "fab": lr.FAB(Threat("linf", 0.06), steps=5)}
        return RobustEvaluation(attacks, calibration=True, check_samples=0, figure_samples=0, verbose=False)

    def on_rank(rank: int) -> dict[str, float]:
        return tested(ddp_trainer(default_root_dir=tmp_path / "two", callbacks=[evaluation()]))

    alone = tested(quiet_trainer(default_root_dir=tmp_path / "one", callbacks=[evaluation()]))
    assert run_ddp(on_rank) == [alone, alone]
    assert alone["worst"] != alone["clean"]


def test_data_in_a_loader_too() -> None:
    loader = DataLoader(TensorDataset(X, Y), batch_size=7)
    by_loader = lr.evaluate(NET, loader, str(THREAT), ATTACKS, calibration=True, **QUICK)
    by_tensors = lr.evaluate(NET, (X, Y), str(THREAT), ATTACKS, calibration=True, **QUICK)
    assert by_loader.calibration(str(THREAT)) == by_tensors.calibration(str(THREAT))
