"""A net that is trained compiled, as docs/speed.md recommends, is evaluated as the README says."""

import json
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from lightning_robust.cli.main import main
from tests.helpers.ddp import run_ddp


@pytest.mark.slow
def test_a_compiled_fit_is_tested_by_autoattack_and_fab(tmp_path: Path) -> None:
    """FAB takes several gradients of one forward pass, for which the compiler leaves no buffers."""

    def on(rank: int) -> dict[str, Any]:
        # the graphs of torch's compiler, run by Python: to generate code takes minutes
        nn.Module.compile = partialmethod(nn.Module.compile, backend="aot_eager")  # type: ignore[assignment]
        few = ["--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}", "--data.batch_size=32"]
        few += ["--trainer.enable_progress_bar=false", "--evaluation.figure_samples=0", "--evaluation.check_samples=4"]
        fit = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=6", "--trainer.limit_val_batches=1"]
        main(["fit", "--config", "digits/at", "--model.compile=true", *few, *fit])
        (config,), (last,) = tmp_path.rglob("config.yaml"), tmp_path.rglob("last.ckpt")
        test = ["--config", str(config), "--config", "evaluation/autoattack", "--ckpt_path", str(last)]
        reports = []
        for compiled in ("true", "false"):
            root = tmp_path / compiled
            settings = [
                *few,
                f"--trainer.default_root_dir={root}",
                f"--model.compile={compiled}",
                "--data.batch_size=4",
            ]
            settings += ["--model.attack.threat.eps=0.6"]  # so large that little is left for Square
            main(["test", *test, *settings, "--trainer.limit_test_batches=1"])
            (report,) = root.rglob("robustness.json")
            reports.append(json.loads(report.read_text()))
        return reports

    ((compiled, eager),) = run_ddp(on, ranks=1, timeout=300)
    assert compiled["attacks"]["fab"]["correct"] < compiled["clean"]["correct"]
    for kind in ("clean", "worst"):
        assert compiled[kind]["correct"] == eager[kind]["correct"]
    for name in ("autoattack", "fab"):
        assert compiled["attacks"][name]["correct"] == eager["attacks"][name]["correct"]
    assert [check["status"] for check in compiled["checks"]] == [check["status"] for check in eager["checks"]]
