"""Every shipped YAML builds, trains and tests a batch."""

import json
from pathlib import Path

import pytest

from lightning_robust.cli import main

ROOT = Path(__file__).parent.parent
QUICK = {"digits-at", "digits-iaat", "digits-st"}  # the rest only in the full suite
CONFIGS = [
    pytest.param(path, id=name, marks=() if name in QUICK else pytest.mark.slow)
    for path in sorted((ROOT / "configs").rglob("*.yaml"))
    if path.parent.name != "evaluation"
    for name in [f"{path.parent.name}-{path.stem}"]
]


QUICKLY = [
    *("--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"),
    *("--trainer.limit_test_batches=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
    *("--data.init_args.eval_batch_size=16", "--trainer.enable_model_summary=false"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_config(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", "--config", str(config), *QUICKLY])
    (last,) = tmp_path.rglob("last.ckpt")
    main(["test", "--config", str(config), *QUICKLY, "--ckpt_path", str(last)])
    (report,) = tmp_path.glob("runs/*/*/test-*/robustness.json")
    result = json.loads(report.read_text())
    assert result["n"] > 0
    assert 0 <= result["worst"]["correct"] <= min(a["correct"] for a in result["attacks"].values())


@pytest.mark.slow
@pytest.mark.parametrize("evaluation", sorted((ROOT / "configs" / "evaluation").glob("*.yaml")), ids=lambda p: p.stem)
def test_an_evaluation_after_a_recipe(evaluation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = ["--config", str(ROOT / "configs" / "digits" / "at.yaml")]
    main(["fit", *recipe, *QUICKLY, "--trainer.max_epochs=4", "--trainer.limit_train_batches=1.0"])
    (last,) = tmp_path.rglob("last.ckpt")
    main(["test", *recipe, "--config", str(evaluation), *QUICKLY, "--ckpt_path", str(last)])
    (report,) = tmp_path.glob("runs/*/*/test-*/robustness.json")
    result = json.loads(report.read_text())
    assert result["clean"]["correct"] > 12
    attack = result["attacks"]["autoattack"]
    assert [stage["name"].split("/")[1] for stage in attack["stages"]] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert attack["correct"] == min(stage["correct"] for stage in attack["stages"]) == attack["stages"][-1]["correct"]
    assert (report.parent / "figures" / "test-radius.png").exists()
