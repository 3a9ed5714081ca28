"""`evaluate` on two processes: the counts of one, the whole report on each of them, each file written once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lightning_robust as lr
from lightning_robust.cli.main import main
from tests.helpers.ddp import run_ddp
from tests.publish.test_evaluate import NET, X, Y

pytestmark = pytest.mark.slow

N = 29  # odd, so that the shares differ


def counted(report: Any) -> dict[str, Any]:
    """The summary without what is measured anew in each run."""
    told: dict[str, Any] = json.loads(report if isinstance(report, str) else report.to_json())
    for threat in told["threats"].values():
        for row in threat["attacks"].values():
            row.pop("seconds")
    return told


@pytest.mark.parametrize(("attacks", "kept"), [(["pgd10", "fab"], True), ("deepfool", False)])
def test_both_ranks_report_what_one_process_does(attacks: Any, kept: bool, tmp_path: Path) -> None:
    def evaluated(folder: str, **hardware: Any) -> dict[str, Any]:
        out = tmp_path / folder if kept else None
        settings: Any = {"check_samples": 8, "accelerator": "cpu", "calibration": True, "batch_size": 8, "out": out}
        report = lr.evaluate(NET, (X[:N], Y[:N]), ["linf 0.05", "linf 0.1"], attacks, **settings, **hardware)
        return counted(report)

    alone = evaluated("one")
    both = run_ddp(lambda rank: evaluated("two", devices=2, strategy="ddp"))
    assert both == [alone, alone]
    if kept:
        names = [sorted(path.name for path in (tmp_path / folder).iterdir()) for folder in ("one", "two")]
        assert names[0] == names[1]
        assert "linf-0.05-robustness.json" in names[0]


def test_the_command_starts_them_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The net is made of random numbers, the same on both ranks; results lie in one folder."""
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", "--net", "SmallConvNet", "--data", "Digits", "--samples", "61", "--attacks", "pgd5"]
    command += ["--threat", "linf 0.1, 0.3", "--check_samples", "0", "--trainer.accelerator", "cpu"]
    main([*command, "--out", "one"])
    started = [sys.executable, "-m", "lightning_robust", *command, "--trainer.devices", "2"]
    inherited = {name: value for name, value in os.environ.items() if name != "LIGHTNING_ROBUST_RUN"}
    done = subprocess.run(started, capture_output=True, text=True, timeout=400, env=inherited)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("worst case") == 3
    assert done.stderr.count("has no trained weights") == 1
    (out,) = tmp_path.glob("runs/Digits/evaluate-*")
    assert json.loads((out / "linf-0.3-robustness.json").read_text())["devices"] == 2
    two, one = (counted((folder / "summary.json").read_text()) for folder in (out, tmp_path / "one"))
    assert two == one
    assert one["n"] == 61
