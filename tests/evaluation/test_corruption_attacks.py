"""Corruption by attack: each group's counts are those of an evaluation of that group alone."""

from pathlib import Path
from typing import Any

import pytest
from lightning import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

import lightning_robust as lr
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.data import CorruptionSuite
from lightning_robust.publish.run_report import write_report
from lightning_robust.threat import Threat
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.foreign import ForeignModule
from tests.publish.test_evaluate import NET, QUICK, X, Y

THREAT = "linf 0.05"
IMAGES = {("clean", 0): X, ("dark", 1): 0.8 * X, ("dark", 2): (0.5 * X)[:20], ("light", 1): 0.4 + 0.6 * X}


def suite() -> CorruptionSuite:
    return CorruptionSuite({group: TensorDataset(x, Y[: len(x)]) for group, x in IMAGES.items()})


def counts(told: dict[str, Any]) -> dict[tuple[str, int], tuple[int, int, int]]:
    rows = told["corruptions"]["rows"]
    return {
        (row["corruption"], row["severity"]): (row["n"], row["clean"]["correct"], row["worst"]["correct"])
        for row in rows
    }


def alone(n: int | None = None) -> dict[tuple[str, int], tuple[int, int, int]]:
    found = {}
    for group, x in IMAGES.items():
        x = x[:n]
        report = lr.evaluate(NET, (x, Y[: len(x)]), THREAT, "pgd10", **QUICK)
        found[group] = len(x), int((NET(x).argmax(1) == Y[: len(x)]).sum()), int(report.robust(THREAT).sum())
    return found


@pytest.mark.parametrize("samples", [None, 7])
def test_each_group_is_as_if_it_were_evaluated_alone(samples: int | None) -> None:
    report = lr.evaluate(NET, suite(), THREAT, "pgd10", samples=samples, **QUICK)
    told = report.summary["threats"][THREAT]
    wanted = alone(samples)
    assert counts(told) == wanted
    assert len({row[2] for row in wanted.values()}) > 1
    corrupted = [(clean / n, worst / n) for (name, _), (n, clean, worst) in wanted.items() if name != "clean"]
    mean = {"clean": sum(c for c, _ in corrupted) / 3, "worst": sum(w for _, w in corrupted) / 3}
    assert told["corruptions"]["mean"] == pytest.approx(mean)
    text = str(report)
    assert f"{mean['worst']:.2%}" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_loader_in_another_order_needs_positions() -> None:
    with pytest.raises(ValueError, match="known by its position"):
        lr.evaluate(NET, DataLoader(suite(), 8, sampler=range(109, -1, -1)), THREAT, "pgd1", **QUICK)


def test_corruptions_that_were_not_read_are_told_of() -> None:
    class Foreign(LightningDataModule):
        def test_dataloader(self) -> DataLoader[Any]:
            return DataLoader(suite(), 5)  # of which `samples` batches are read

    with pytest.warns(UserWarning, match="No image of light 1 was evaluated"):
        lr.evaluate(NET, Foreign(), THREAT, "pgd1", samples=15, **QUICK)


def test_other_data_have_none() -> None:
    report = lr.evaluate(NET, (X, Y), THREAT, "pgd1", **QUICK)
    assert "corruptions" not in report.summary["threats"][THREAT]


@pytest.mark.slow
def test_a_sweep_and_the_page_have_them_too(tmp_path: Path) -> None:
    radii = ["linf 0.02", THREAT]
    swept = lr.evaluate(NET, suite(), radii, "deepfool", out=tmp_path, **QUICK)
    for threat in radii:
        one = lr.evaluate(NET, suite(), threat, "deepfool", **QUICK)
        assert counts(swept.summary["threats"][threat]) == counts(one.summary["threats"][threat])
    (page,) = write_report(str(tmp_path / "linf-0.05-robustness.json"))
    assert "<td>dark</td><td>2</td><td>20</td>" in page.read_text()


@pytest.mark.slow
# Lightning's advice to evaluate on one device: https://github.com/Lightning-AI/pytorch-lightning/issues/12862
@pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders")
@pytest.mark.parametrize("samples", [None, 7])
def test_the_number_of_ranks_does_not_matter(samples: int | None, tmp_path: Path) -> None:
    def tested(make: Any) -> Any:
        attacks = {"pgd": lr.PGD(Threat("linf", 0.06), steps=3)}
        evaluation = RobustEvaluation(attacks, samples=samples, check_samples=0, figure_samples=0, verbose=False)
        make(default_root_dir=tmp_path, callbacks=[evaluation]).test(
            ForeignModule(), DataLoader(suite(), 4), verbose=False
        )
        return evaluation.results[0].report["corruptions"]

    wanted = tested(quiet_trainer)
    assert [row["n"] for row in wanted["rows"]] == [min(len(x), samples or 99) for x in IMAGES.values()]
    assert run_ddp(lambda rank: tested(ddp_trainer)) == [wanted, wanted]
