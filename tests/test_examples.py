"""The examples of searches and sweeps run, each with a budget of seconds."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_robust.cli.main import main

EXAMPLES = Path(__file__).parents[1] / "examples"
QUICK = [
    *("--trainer.max_epochs=2", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu", "--model.net.width=4"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--data.val_size=64"),
    *("--evaluation.check_samples=0", "--evaluation.figure_samples=0"),
]

pytestmark = pytest.mark.slow  # they train


def test_optuna_takes_the_best_checkpoints_accuracy_and_prunes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optuna = pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import optuna_search  # type: ignore[import-not-found]

    study = optuna_search.search(["--trials", "2", *QUICK])
    configs = [yaml.safe_load(path.read_text()) for path in sorted(tmp_path.rglob("config.yaml"))]
    assert len(study.trials) == len(configs) == 2
    for trial, config in zip(study.trials, configs, strict=True):
        settings = config["model"]["init_args"]
        assert settings["beta"] == trial.params["beta"]
        assert settings["optimizer"]["init_args"]["lr"] == trial.params["lr"]
        assert set(trial.intermediate_values) == {0, 1}  # told after each epoch
        assert trial.value == max(trial.intermediate_values.values())
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: True)
    with pytest.raises(ValueError, match="No trials are completed yet"):
        optuna_search.search(["--trials", "1", *QUICK])
    logs = sorted(tmp_path.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
    epochs = {line.split(",")[0] for line in logs[-1].read_text().splitlines()[1:]}
    assert len(logs) == 3
    assert len(epochs) == 1  # it ended after the first of two


def sweep_command(values: dict[str, Any]) -> list[str]:
    """The words that an agent of W&B runs for these values."""
    sweeps = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    sweep = yaml.safe_load((EXAMPLES / "wandb_sweep.yaml").read_text())
    assert set(values) == set(sweep["parameters"])
    parts = sweeps.create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    fill = {"${env}": ["/usr/bin/env"], "${program}": [sweep["program"]], "${args}": parts["args"]}
    return [filled for word in sweeps.create_sweep_command(sweep["command"]) for filled in fill.get(word, [word])]


def test_the_sweep_runs_commands_that_parse(capsys: pytest.CaptureFixture[str]) -> None:
    words = sweep_command({"model.beta": 2.5, "model.optimizer.lr": 0.03, "model.attack.steps": 5})
    assert words[:3] == ["/usr/bin/env", "lightning-robust", "fit"]
    with pytest.raises(SystemExit) as stop:
        main([*words[2:], "--print_config"])
    assert stop.value.code == 0
    found = yaml.safe_load(capsys.readouterr().out)
    settings = found["model"]["init_args"]
    assert (settings["beta"], settings["optimizer"]["init_args"]["lr"]) == (2.5, 0.03)
    assert settings["attack"]["init_args"]["steps"] == 5
    assert found["trainer"]["logger"]["class_path"].endswith(".WandbLogger")


def test_the_sweep_is_one_that_wandb_takes_and_maximises_what_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    sweep = yaml.safe_load((EXAMPLES / "wandb_sweep.yaml").read_text())
    assert sweep["metric"] == {"name": "val/worst_acc", "goal": "maximize"}
    assert sweep["method"] in ("grid", "random", "bayes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    words = sweep_command({"model.beta": 2.5, "model.optimizer.lr": 0.03, "model.attack.steps": 2})
    found = main([*words[2:], *QUICK])
    wandb.finish()
    assert isinstance(found, dict)
    assert sweep["metric"]["name"] in found
    assert list(tmp_path.rglob("offline-run-*"))


@pytest.mark.parametrize(("method", "name"), [("at", "AT"), ("trades", "TRADES")])
def test_hydra_trains_tests_and_overrides(method: str, name: str, tmp_path: Path) -> None:
    pytest.importorskip("hydra")
    quick = ["trainer.max_epochs=1", "+trainer.limit_train_batches=2", "+model.net.width=4", "trainer.accelerator=cpu"]
    words = [f"method={method}", *quick, "eps=0.1", "+trainer.enable_progress_bar=false"]
    run = [sys.executable, str(EXAMPLES / "hydra_train.py"), *words]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"_target_: lightning_robust.defenses.{name}" in done.stdout
    assert re.search(r"^Best val/worst_acc: 0\.\d+$", done.stdout, re.MULTILINE)
    reports = [json.loads(path.read_text()) for path in tmp_path.rglob("robustness.json")]
    assert reports
    assert all(report["threat"]["eps"] == 0.1 for report in reports)
