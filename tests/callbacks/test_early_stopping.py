"""A recipe stops at the epoch that its patience says, and keeps the weights of the best one."""

import csv
from pathlib import Path

import pytest
import torch

from lightning_robust.cli.main import main

RECIPE = Path(__file__).parents[2] / "configs" / "digits" / "at_early_stopping.yaml"
EPOCHS, PATIENCE = 12, 1
QUICK = [
    *(f"--trainer.max_epochs={EPOCHS}", "--trainer.limit_train_batches=3", "--trainer.enable_progress_bar=false"),
    *("--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", "--evaluation.figure_samples=0"),
    *("--model.net.width=4", "--model.attack.steps=1", "--model.optimizer.lr=1.0"),  # so that accuracy soon falls
]


def test_it_stops_and_keeps_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.read_text().replace("patience: 10", f"patience: {PATIENCE}"))
    assert f"patience: {PATIENCE}" in recipe.read_text()
    main(["fit", "--config", str(recipe), *QUICK])
    (log,) = tmp_path.glob("runs/*/*/fit-*/metrics.csv")
    rows = [row for row in csv.DictReader(log.read_text().splitlines()) if row["val/worst_acc"]]
    found = [float(row["val/worst_acc"]) for row in rows]
    best, waited = 0, 0
    for epoch, accuracy in enumerate(found):  # the rule, once more
        best, waited = (epoch, 0) if epoch == 0 or accuracy > found[best] else (best, waited + 1)
        assert (waited == PATIENCE) == (epoch == len(found) - 1)
    assert len(found) < EPOCHS
    (checkpoint,) = log.parent.glob("checkpoints/best*.ckpt")
    assert torch.load(checkpoint, weights_only=True)["epoch"] == best < len(found) - 1
    last = torch.load(log.parent / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == len(found) - 1
    again = main(["validate", "--config", str(recipe), *QUICK, "--ckpt_path", str(checkpoint)])
    assert isinstance(again, dict)
    assert again["val/clean_acc"] == pytest.approx(float(rows[best]["val/clean_acc"]))
