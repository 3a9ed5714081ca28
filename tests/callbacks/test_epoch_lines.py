"""One line an epoch, in every bar and in none."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import EpochLines, RobustEvaluation, RobustProgressBar
from lightning_robust.defenses import AT
from lightning_robust.threat import Threat
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, plain_net
from tests.helpers.foreign import ForeignModule, loader

ATTACK = PGD(Threat(eps=0.1), steps=2)


def fit(folder: Path, callbacks: list[Any], module: Any = None, **settings: Any) -> Any:
    evaluation = RobustEvaluation({"pgd": ATTACK}, figure_samples=0)
    settings = {"max_epochs": 2, "default_root_dir": folder, "enable_progress_bar": len(callbacks) > 1, **settings}
    trainer = quiet_trainer(callbacks=[evaluation, *callbacks], **settings)
    trainer.fit(module or AT(plain_net(), attack=ATTACK), Few())
    return trainer


def lines(told: str) -> list[str]:
    return [line for line in told.splitlines() if line.startswith("epoch ") and "━" not in line]


@pytest.mark.parametrize("bars", [[], [RichProgressBar], [TQDMProgressBar], [RobustProgressBar]])
def test_a_line_says_what_was_logged(bars: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = fit(tmp_path, [EpochLines(), *(bar() for bar in bars)])
    first, second = lines(capsys.readouterr().out)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    loss, clean, worst = logged["train/loss"], 100 * logged["val/clean_acc"], 100 * logged["val/worst_acc"]
    assert re.fullmatch(r"epoch 1/2  loss [\d.]+  clean [ \d]{3}\.\d %  worst [ \d]{3}\.\d %  [\d.]+ s", first)
    assert second.startswith(f"epoch 2/2  loss {loss:.4f}  clean {clean:5.1f} %  worst {worst:5.1f} %  ")


def test_accuracies_stand_only_where_they_are_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, [EpochLines()], max_epochs=3, check_val_every_n_epoch=2)
    assert [("worst" in line, "loss" in line) for line in lines(capsys.readouterr().out)] == [
        (False, True),
        (True, True),
        (False, True),
    ]


def test_a_module_that_logs_nothing_has_its_epochs_counted(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = quiet_trainer(max_epochs=-1, max_steps=4, callbacks=[EpochLines()])
    trainer.fit(ForeignModule(), loader(8))
    assert [re.sub(r"[\d.]+ s", "t", line) for line in lines(capsys.readouterr().out)] == ["epoch 1  t", "epoch 2  t"]


def test_numbers_stand_below_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, [EpochLines()], max_epochs=10, limit_train_batches=1)
    told = lines(capsys.readouterr().out)
    assert told[0].startswith("epoch  1/10  ")
    assert len({line.index("clean") for line in told}) == 1


def test_one_rank_tells_the_mean_of_all() -> None:
    def on(rank: int) -> tuple[list[str], float]:
        with redirect_stdout(io.StringIO()) as told:
            trainer = ddp_trainer(max_epochs=1, callbacks=[EpochLines()])
            trainer.fit(AT(plain_net(), attack=ATTACK), Few())
        return lines(told.getvalue()), float(trainer.callback_metrics["train/loss"])

    (told, loss), (silent, _) = run_ddp(on)
    assert [line.split("  ")[:2] for line in told] == [["epoch 1/1", f"loss {loss:.4f}"]]
    assert not silent
