"""Curves of logged numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_robust.callbacks import Curves
from lightning_robust.callbacks.curves import curves
from lightning_robust.defenses import Standard
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, plain_net


class Losses(Callback):
    """What was logged at the end of each epoch."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append(float(trainer.callback_metrics["train/loss"]))


def plain() -> Standard:
    return Standard(plain_net(), optimizer=lambda params: torch.optim.SGD(params, lr=0.1))


@pytest.mark.slow
def test_it_draws_what_was_logged_epoch_by_epoch(tmp_path: Path) -> None:
    drawn, losses = Curves(["train/loss", "train/nothing"]), Losses()
    quiet_trainer(max_epochs=3, callbacks=[drawn, losses], default_root_dir=tmp_path).fit(plain(), Few())
    assert drawn.history == {"train/loss": dict(enumerate(losses.seen)), "train/nothing": {}}
    assert len(set(losses.seen)) == 3
    assert imread(tmp_path / "figures/curves.png").std() > 0
    panels = curves(drawn.history).axes
    assert [panel.get_title() for panel in panels] == ["train/loss", "train/nothing"]
    x, y = panels[0].lines[0].get_data()
    assert (list(x), list(y)) == ([0, 1, 2], losses.seen)


def test_tensorboard_shows_them(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    quiet_trainer(max_epochs=2, callbacks=[Curves(["train/loss"])], logger=logger).fit(plain(), Few())
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [event.step for event in events.Images("curves")] == [3, 6]
    assert (tmp_path / "run/figures/curves.png").is_file()


# resuming says where it saves
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_keeps_the_beginning(tmp_path: Path) -> None:
    def fitted(epochs: int, resume: str | None = None) -> Curves:
        drawn = Curves(["train/loss"])
        save = ModelCheckpoint(tmp_path, "last", save_on_train_epoch_end=True, enable_version_counter=False)
        trainer = quiet_trainer(
            max_epochs=epochs, callbacks=[drawn, save], enable_checkpointing=True, default_root_dir=tmp_path
        )
        trainer.fit(plain(), Few(), ckpt_path=resume, weights_only=True if resume else None)
        return drawn

    whole, _ = fitted(4), fitted(2)
    assert fitted(4, str(tmp_path / "last.ckpt")).history == whole.history


def test_ranks_draw_once(tmp_path: Path) -> None:
    def on(rank: int) -> dict[str, dict[int, float]]:
        drawn = Curves(["train/loss"])
        ddp_trainer(max_epochs=2, callbacks=[drawn], default_root_dir=tmp_path).fit(plain(), Few(batch_size=2))
        return drawn.history

    first, second = run_ddp(on)
    assert first == second
    assert set(first["train/loss"]) == {0, 1}
    assert (tmp_path / "figures/curves.png").is_file()
