"""Callbacks work under the trainer of `pytorch_lightning`, whose classes are not those of `lightning`."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from pytorch_lightning.cli import LightningCLI
from torch import Tensor, nn

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import (
    AdversarialInputs,
    AveragedWeights,
    Curves,
    EffectiveMargins,
    EpochLines,
    RobustEvaluation,
)
from lightning_robust.callbacks.run_folder import run_folder
from lightning_robust.defenses import AT
from lightning_robust.threat import Threat
from tests.helpers.few import norm_net
from tests.helpers.foreign import loader

ATTACK = PGD(Threat(eps=0.2), steps=2, start="none")
PACKAGES = [lightning.pytorch, pytorch_lightning]


def module(pl: Any) -> Any:
    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = norm_net()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.log("train/loss", loss)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self(batch[0])

        test_step = validation_step

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.5)

    return Module()


def trainer(pl: Any, folder: Path, *callbacks: Any, bars: bool = False) -> Any:
    logger = pl.loggers.CSVLogger(str(folder), name="", version="logged")
    settings: dict[str, Any] = {"enable_progress_bar": bars, "enable_model_summary": False, "num_sanity_val_steps": 0}
    settings |= {"accelerator": "cpu", "default_root_dir": str(folder), "log_every_n_steps": 1, "max_epochs": 3}
    return pl.Trainer(callbacks=list(callbacks), logger=logger, **settings)


def run(pl: Any, folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """What a fit and a test with callbacks of this package find, report and make of the weights."""
    best = pl.callbacks.ModelCheckpoint(str(folder / "saved"), monitor="val/worst_acc", mode="max")
    evaluation = RobustEvaluation({"pgd": ATTACK}, check_samples=0, figure_samples=2)
    average = AveragedWeights(0.5, batch_norm="recompute")
    callbacks = (evaluation, AdversarialInputs(ATTACK), EffectiveMargins(), Curves(["train/loss"]), EpochLines(), best)
    ours, net = trainer(pl, folder, average, *callbacks), module(pl)
    ours.fit(net, loader(16), loader(12))
    assert run_folder(ours) == folder / "logged"
    told = json.loads((folder / "logged/robustness.json").read_text())
    (found,) = ours.test(net, loader(12), verbose=False)
    return found, told, net.state_dict()


@pytest.mark.slow
def test_callbacks_find_report_and_train_the_same_under_both(tmp_path: Path) -> None:
    (found, told, weights), (other, other_told, other_weights) = [run(pl, tmp_path / pl.__name__) for pl in PACKAGES]
    assert found == other
    assert {"test/clean_acc", "test/pgd_acc", "test/effective_margin"} <= set(other)
    assert "best checkpoint by val/worst_acc" in other_told["weights"] == told["weights"]
    assert other_told["attacks"]["pgd"]["correct"] == told["attacks"]["pgd"]["correct"]
    assert all(torch.equal(value, other_weights[name]) for name, value in weights.items())
    assert not torch.equal(other_weights["net.4.weight"], norm_net()[4].weight)


def test_its_progress_bar_shows_the_attack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = trainer(pytorch_lightning, tmp_path, RobustEvaluation({"pgd": ATTACK}, check_samples=0), bars=True)
    ours.callbacks = [c for c in ours.callbacks if not isinstance(c, pytorch_lightning.callbacks.ProgressBar)]
    ours.callbacks.append(pytorch_lightning.callbacks.TQDMProgressBar())
    ours.test(module(pytorch_lightning), loader(12), verbose=False)
    assert "pgd: accuracy <=" in capsys.readouterr().err


def test_its_command_line_takes_them_as_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["main.py"])
    evaluation = RobustEvaluation({"pgd": ATTACK}, check_samples=0, figure_samples=0)
    cli = LightningCLI(
        type(module(pytorch_lightning)),
        trainer_defaults={
            "callbacks": [evaluation],
            "logger": False,
            "accelerator": "cpu",
            "default_root_dir": str(tmp_path),
        },
        args=[],
        run=False,
        save_config_callback=None,
        seed_everything_default=0,
    )
    (found,) = cli.trainer.test(cli.model, loader(12), verbose=False)
    assert "test/pgd_acc" in found


def test_it_refuses_a_defense_in_the_words_of_the_documents() -> None:
    with pytest.raises(TypeError, match="`model` must be a `LightningModule`"):
        pytorch_lightning.Trainer(accelerator="cpu", logger=False, max_epochs=1).fit(AT(norm_net()), loader(4))
