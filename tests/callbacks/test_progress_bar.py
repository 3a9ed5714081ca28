"""What the bar shows; how it looks is in tests/cli/test_terminal.py."""

from typing import Any

import pytest
from lightning import Callback

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import RobustProgressBar
from lightning_robust.defenses import AT, Defense, FreeAT
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Losses, Views
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, plain_net


class Noting(Callback):
    """Keeps what the bar shows after each step."""

    def __init__(self) -> None:
        self.shown: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.shown.append(trainer.progress_bar_callback.get_metrics(trainer, pl_module))


class Kept(AT):
    """Keeps the loss of each step."""

    def loss(self, batch: Batch, views: Views) -> Losses:
        losses = super().loss(batch, views)
        self.kept = [*getattr(self, "kept", []), float(losses.total.detach().mean())]
        return losses


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_shows_the_loss_of_the_step(accumulate: int) -> None:
    note, defense = Noting(), Kept(plain_net(), attack=PGD(Threat(eps=0.1), steps=1))
    settings: dict[str, Any] = {"accumulate_grad_batches": accumulate, "enable_progress_bar": True}
    quiet_trainer(max_epochs=2, callbacks=[RobustProgressBar(), note], **settings).fit(defense, Few())
    assert len(defense.kept) == 6
    assert [shown["loss"] for shown in note.shown] == pytest.approx(defense.kept)


@pytest.mark.parametrize("defense", [FreeAT(plain_net(), replays=2)])
def test_it_follows_methods_with_steps_of_their_own(defense: Defense) -> None:
    note = Noting()
    quiet_trainer(max_epochs=2, callbacks=[RobustProgressBar(), note], enable_progress_bar=True).fit(defense, Few())
    losses = [shown["loss"] for shown in note.shown]
    assert len(set(losses)) == len(losses) == 6


def test_epochs_are_counted_from_one() -> None:
    bar = RobustProgressBar()
    quiet_trainer(max_epochs=2, callbacks=[bar], enable_progress_bar=True).fit(AT(plain_net()), Few())
    assert bar._get_train_description(0) == "epoch 1/2"
    bar.trainer.fit_loop.max_epochs = -1
    assert bar._get_train_description(4) == "epoch 5"
