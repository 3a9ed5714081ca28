"""After fit, robustness.json is the best checkpoint's, whoever chose it and however the fit ended."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.callbacks.run_folder import run_folder
from lightning_robust.threat import Threat
from lightning_robust.utils.sha256 import file_sha256
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.foreign import ForeignModule, loader

SCORES = (0.0, 3.0, 1.0, 2.0)  # by epoch: the second is the best


class Scored(ForeignModule):
    """Two steps an epoch; logs a score that has nothing to do with accuracy."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)
        score = SCORES[min(self.current_epoch, 3)] + self.global_step / 1000
        self.log("score", score, sync_dist=True, add_dataloader_idx=False)


class Fails(Callback):
    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 3:
            raise RuntimeError("in the midst of a fit")


class Stops(Callback):
    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        trainer.should_stop = trainer.current_epoch == 2


class Looks(Callback):
    """Reads the report at the start of each epoch, as it would be found after a kill."""

    def __init__(self) -> None:
        self.found: list[tuple[int, bool]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch and not batch_idx:
            told = report(trainer)
            self.found.append((told["epoch"], Path(told["checkpoint"]["path"]).exists()))


def evaluation() -> RobustEvaluation:
    return RobustEvaluation({"pgd": PGD(Threat(eps=0.06), steps=1)}, figure_samples=0)


def report(trainer: Trainer, name: str = "robustness") -> dict[str, Any]:
    return json.loads((run_folder(trainer) / f"{name}.json").read_text())


def saver(**settings: Any) -> ModelCheckpoint:
    return ModelCheckpoint(**{"monitor": "score", "mode": "max", **settings})


def fit(folder: Path, *callbacks: Callback, ckpt_path: str | None = None, **settings: Any) -> Trainer:
    settings = {"max_epochs": 4, "default_root_dir": folder, "enable_checkpointing": True, **settings}
    trainer = quiet_trainer(callbacks=[evaluation(), *callbacks], **settings)
    trainer.fit(Scored(), loader(8, 4), loader(11, 4), ckpt_path=ckpt_path)
    return trainer


def assert_best(trainer: Trainer, epoch: int = 1) -> None:
    told, best = report(trainer), trainer.checkpoint_callback
    assert isinstance(best, ModelCheckpoint)
    assert told["epoch"] == epoch
    assert told["checkpoint"] == {"path": best.best_model_path, "sha256": file_sha256(best.best_model_path)}
    assert told["weights"] == "best checkpoint by score (max)"
    stored = torch.load(best.best_model_path, weights_only=True)
    assert stored["epoch"] == epoch
    net = Scored()
    net.load_state_dict(stored["state_dict"])
    with torch.no_grad():
        x, y = next(iter(loader(11, 11)))
        assert told["clean"]["correct"] == int((net.eval()(x).argmax(1) == y).sum())


@pytest.mark.parametrize(
    ("settings", "trainer"),
    [
        ({}, {}),
        ({"save_top_k": 3}, {}),
        ({"save_top_k": -1}, {}),
        ({"filename": "best"}, {}),  # the same file, written again
        ({"save_weights_only": True}, {}),
        ({}, {"val_check_interval": 0.5}),  # saved after the validation, not after the epoch
        ({}, {"callbacks_before": True}),
    ],
    ids=["plain", "three", "all", "one name", "weights only", "twice an epoch", "another order"],
)
def test_the_report_is_the_best_checkpoints(settings: Any, trainer: Any, tmp_path: Path) -> None:
    trainer = dict(trainer)
    if trainer.pop("callbacks_before", False):
        done = quiet_trainer(
            max_epochs=4, default_root_dir=tmp_path, enable_checkpointing=True, callbacks=[saver(), evaluation()]
        )
        done.fit(Scored(), loader(8, 4), loader(11, 4))
    else:
        done = fit(tmp_path, saver(**settings), **trainer)
    assert_best(done)


def test_epochs_without_validation_are_passed_over(tmp_path: Path) -> None:
    assert_best(fit(tmp_path, saver(), check_val_every_n_epoch=2))


def test_a_fit_that_stops_early_leaves_the_best_ones(tmp_path: Path) -> None:
    assert_best(fit(tmp_path, saver(), Stops()))


def test_a_fit_that_fails_leaves_the_best_ones(tmp_path: Path) -> None:
    trainer = quiet_trainer(
        max_epochs=4, default_root_dir=tmp_path, enable_checkpointing=True, callbacks=[evaluation(), saver(), Fails()]
    )
    with pytest.raises(RuntimeError, match="in the midst of a fit"):
        trainer.fit(Scored(), loader(8, 4), loader(11, 4))
    assert_best(trainer)


def test_a_killed_fit_has_the_best_ones_so_far(tmp_path: Path) -> None:
    looks = Looks()
    fit(tmp_path, saver(), looks)
    assert looks.found == [(0, True), (1, True), (1, True)]


@pytest.mark.parametrize("place", ["same", "another"])
@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_fit_knows_the_best_of_its_earlier_part(place: str, tmp_path: Path) -> None:
    first = fit(tmp_path / "first", saver(save_last=True), max_epochs=3)
    assert_best(first)
    last = str(first.checkpoint_callback.last_model_path)  # type: ignore[union-attr]
    folder = tmp_path / ("first" if place == "same" else "second")
    before = report(first)
    second = fit(folder, saver(save_last=True), ckpt_path=last)
    if place == "same":
        assert_best(second)
        assert run_folder(second) == folder / "run-1"
        assert report(first) == before
    else:  # Lightning takes the best of the new folder for the best
        assert_best(second, epoch=3)


def test_a_resumed_fit_with_nothing_left_to_do_leaves_the_best_ones(tmp_path: Path) -> None:
    first = fit(tmp_path, saver(save_last=True), max_epochs=3)
    last = str(first.checkpoint_callback.last_model_path)  # type: ignore[union-attr]
    with pytest.warns(UserWarning, match="exists and is not empty"):
        assert_best(fit(tmp_path, saver(save_last=True), ckpt_path=last, max_epochs=3))


def test_without_checkpoints_it_is_the_last_epochs_and_says_so(tmp_path: Path) -> None:
    told = report(fit(tmp_path, enable_checkpointing=False))
    assert (told["epoch"], told["checkpoint"]) == (3, None)
    assert told["weights"] == "last validation's: no checkpoint was saved"


def test_of_a_checkpoint_between_validations_it_says_so(tmp_path: Path) -> None:
    told = report(fit(tmp_path, ModelCheckpoint(every_n_train_steps=5)))
    assert (told["epoch"], told["checkpoint"]) == (3, None)
    assert told["weights"] == "last validation's: the best checkpoint was saved at another step"


def test_a_checkpoint_that_nothing_monitors_is_the_last(tmp_path: Path) -> None:
    told = report(fit(tmp_path, ModelCheckpoint()))
    assert (told["epoch"], told["weights"]) == (3, "last checkpoint")


def test_the_monitored_checkpoint_counts_among_several(tmp_path: Path) -> None:
    periodic, best = ModelCheckpoint(tmp_path / "steps", every_n_train_steps=1), saver()
    trainer = fit(tmp_path, periodic, best)
    told = report(trainer)
    assert (told["epoch"], told["checkpoint"]["path"]) == (1, best.best_model_path)


def test_a_fit_that_goes_on_with_its_trainer_keeps_the_best(tmp_path: Path) -> None:
    trainer = fit(tmp_path, saver(), max_epochs=2)
    trainer.fit_loop.max_epochs = 4
    with pytest.warns(UserWarning, match="exists and is not empty"):
        trainer.fit(trainer.lightning_module, loader(8, 4), loader(11, 4))
    assert_best(trainer)


def test_each_loader_has_its_report(tmp_path: Path) -> None:
    trainer = quiet_trainer(
        max_epochs=4, default_root_dir=tmp_path, enable_checkpointing=True, callbacks=[evaluation(), saver(monitor="s")]
    )

    class Two(Scored):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("s", SCORES[self.current_epoch], add_dataloader_idx=False) if not dataloader_idx else None

    trainer.fit(Two(), loader(8, 4), [loader(11, 4), loader(7, 4)])
    first, second = (report(trainer, f"robustness-{i}") for i in (0, 1))
    assert [first["n"], second["n"]] == [11, 7]
    assert first["epoch"] == second["epoch"] == 1
    assert first["checkpoint"]["sha256"] == second["checkpoint"]["sha256"]


@pytest.mark.slow
def test_two_ranks_leave_one(tmp_path: Path) -> None:
    def train(rank: int) -> tuple[str, Tensor]:
        settings: dict[str, Any] = {"max_epochs": 4, "default_root_dir": tmp_path, "enable_checkpointing": True}
        trainer = ddp_trainer(callbacks=[evaluation(), saver()], **settings)
        trainer.fit(Scored(), loader(16, 4), loader(11, 4))
        return str(run_folder(trainer)), trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]

    (folder, best), other = run_ddp(train)
    assert other == (folder, best) == (str(tmp_path), best)
    told = json.loads((tmp_path / "robustness.json").read_text())
    assert (told["epoch"], told["n"], told["devices"]) == (1, 11, 2)
    assert told["checkpoint"] == {"path": best, "sha256": file_sha256(best)}
