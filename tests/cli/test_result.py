"""What `main` returns to a script that calls it."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from lightning_robust.cli.main import console, main
from lightning_robust.publish.robustness_report import RobustnessReport

pytestmark = pytest.mark.slow  # each starts the command line

QUICK = [
    *("--config=digits/at", "--trainer.max_epochs=2", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--model.net.width=4"),
    "--checkpoint.mode=min",  # so that the best is not the last
    *("--evaluation.check_samples=0", "--data.val_size=64", "--trainer.limit_test_batches=1"),
    "--evaluation.attacks={pgd2: {class_path: PGD, init_args: {steps: 2}}}",
]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("fit")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, main(["fit", *QUICK])


def test_fit_gives_the_last_epochs_metrics_and_the_best_checkpoints_value(fitted: tuple[Path, Any]) -> None:
    folder, found = fitted
    (log,) = folder.rglob("metrics.csv")
    rows = [row for row in csv.DictReader(log.read_text().splitlines()) if row["val/worst_acc"]]
    values = [float(row["val/worst_acc"]) for row in rows]
    assert len(set(values)) == 2
    assert all(type(value) is float for value in found.values())
    assert math.isclose(found["val/worst_acc"], values[-1], rel_tol=1e-5)
    assert math.isclose(found["best/val/worst_acc"], min(values), rel_tol=1e-5)


def test_test_gives_what_its_report_says_and_plan_nothing(
    fitted: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(fitted[0])
    (last,) = fitted[0].rglob("last.ckpt")
    found: Any = main(["test", *QUICK, f"--ckpt_path={last}"])
    (report,) = fitted[0].glob("runs/Digits/AT/test-*/robustness.json")
    assert math.isclose(found["test/worst_acc"], json.loads(report.read_text())["worst"]["accuracy"], rel_tol=1e-6)
    assert not any(name.startswith("best/") for name in found)
    assert main(["plan", *QUICK, "--steps=1", "--seconds=0.1"]) is None
    assert main(["recipes", "digits"]) is None


def test_evaluate_gives_its_report_and_the_shell_gets_no_status(
    fitted: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fitted[0])
    (last,) = fitted[0].rglob("last.ckpt")
    words = ["evaluate", f"--net={last}", "--data=Digits", "--samples=8", "--attacks=pgd2", "--check_samples=0"]
    found = main([*words, "--threat=linf 0.1"])
    assert isinstance(found, RobustnessReport)
    assert 0 <= found.accuracy("linf 0.1") <= 1
    monkeypatch.setattr("sys.argv", ["lightning-robust", *words, "--out=again"])
    assert console() is None  # type: ignore[func-returns-value]  # `sys.exit` of it is status 0
