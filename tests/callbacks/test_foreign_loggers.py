"""Another project's module under another project's logger: the numbers of a plain loop arrive."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.threat import Threat
from tests.cli.test_run_folder import wandb_records
from tests.helpers.ddp import quiet_trainer
from tests.helpers.foreign import ForeignModule, images, loader

N = 11
ATTACK = PGD(Threat(eps=0.05), steps=2, start="none")
STEP = 2.5 * 0.05 / 2  # the attack's default


def plain_loop() -> float:
    """The robust accuracy by torch alone: two signed steps, within 0.05 and [0, 1]."""
    module = ForeignModule().eval()
    x, y = images(N).tensors
    x_adv = x.clone()
    for _ in range(2):
        leaf = x_adv.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(module(leaf), y, reduction="sum"), leaf)
        x_adv = (x_adv + STEP * gradient.sign()).clamp(x - 0.05, x + 0.05).clamp(0, 1)
    found = (module(x).argmax(1) == y) & (module(x_adv).argmax(1) == y)
    return found.float().mean().item()


def evaluate(logger: Any, folder: Path) -> None:
    evaluation = RobustEvaluation({"pgd": ATTACK}, figure_samples=2, check_samples=0)
    trainer = quiet_trainer(default_root_dir=folder, logger=logger, callbacks=[evaluation])
    trainer.test(ForeignModule(), loader(N), verbose=False)
    told = json.loads((folder / "robustness.json").read_text())
    assert 0 < told["worst"]["accuracy"] < told["clean"]["accuracy"]
    assert told["worst"]["accuracy"] == pytest.approx(plain_loop())


@pytest.mark.slow
def test_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    evaluate(WandbLogger(save_dir=tmp_path, project="theirs", offline=True), tmp_path)
    wandb.finish()
    wandb.teardown()  # another test's run has a folder of its own
    rows = [item for record in wandb_records(tmp_path) for item in record.history.item]
    told = {item.key or item.nested_key[0]: item.value_json for item in rows}
    assert float(told["test/worst_acc"]) == pytest.approx(plain_loop())
    assert "test-pgd" in told


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy, in MLflow's tables
@pytest.mark.slow
def test_mlflow(tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    logger = MLFlowLogger("theirs", tracking_uri=address, artifact_location=str(tmp_path / "artifacts"))
    evaluate(logger, tmp_path)
    client = tracking.MlflowClient(address)
    assert client.get_run(logger.run_id).data.metrics["test/worst_acc"] == pytest.approx(plain_loop())
    assert list((tmp_path / "artifacts").rglob("test-pgd.png"))
