"""Checkpoints survive kills and full disks."""

import os
import re
import shutil
import subprocess
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_robust.cli.checkpoints import AtomicCheckpointIO, LastCheckpoint
from lightning_robust.defenses import Standard
from tests.helpers.ddp import quiet_trainer, run_ddp
from tests.helpers.few import Few, plain_net


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    place, mount = tmp_path / "disk", shutil.which("mount")
    place.mkdir()
    command = [str(mount), "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if not mount or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def content(n: int, value: float = 1.0) -> dict[str, Any]:
    return {"x": torch.full((n,), value), "state_dict": {}, "pytorch-lightning_version": "2.6.6"}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saver, path = AtomicCheckpointIO(), tmp_path / "new" / "a.ckpt"
    saver.save_checkpoint(content(5), path)
    saver.save_checkpoint(content(5, 2.0), path)
    assert torch.equal(saver.load_checkpoint(path, weights_only=True)["x"], torch.full((5,), 2.0))
    assert [p.name for p in path.parent.iterdir()] == ["a.ckpt"]
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    with pytest.raises(TypeError, match="storage_options"):
        saver.save_checkpoint(content(5), path, storage_options={})


def test_a_full_disk_leaves_the_checkpoint_before(small_disk: Path) -> None:
    saver, path = AtomicCheckpointIO(), small_disk / "last.ckpt"
    saver.save_checkpoint(content(100_000), path)
    with pytest.raises(OSError, match=r"last.ckpt was not written .*Is the disk full\? What was saved before is whole"):
        saver.save_checkpoint(content(200_000), path)
    assert len(saver.load_checkpoint(path, weights_only=True)["x"]) == 100_000
    assert [p.name for p in small_disk.iterdir()] == ["last.ckpt"]


def test_a_run_on_a_full_disk_ends_with_every_checkpoint_whole(small_disk: Path) -> None:
    net = plain_net()
    net.register_buffer("ballast", torch.zeros(60_000))
    save = ModelCheckpoint(small_disk, "{epoch}", save_top_k=-1)
    trainer = quiet_trainer(max_epochs=9, callbacks=[save], enable_checkpointing=True, plugins=[AtomicCheckpointIO()])
    with pytest.raises(OSError, match="Is the disk full"):
        trainer.fit(Standard(net), Few())
    saved = sorted(small_disk.iterdir())
    assert 1 < len(saved) < 9
    for path in saved:
        assert "state_dict" in torch.load(path, weights_only=True)


def test_a_kill_leaves_the_checkpoint_before_and_the_next_save_cleans_up(tmp_path: Path) -> None:
    saver, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    saver.save_checkpoint(content(7), path)

    def killed(rank: int) -> None:
        os.fsync = lambda fd: os._exit(9)  # type: ignore[assignment]
        saver.save_checkpoint(content(9), path)

    with pytest.raises(AssertionError, match="9"):
        run_ddp(killed, 1)
    (left,) = set(tmp_path.iterdir()) - {path}
    assert len(saver.load_checkpoint(path, weights_only=True)["x"]) == 7
    saver.save_checkpoint(content(8), path)
    assert left.exists()  # for all that is known, another process is writing it
    os.utime(left, (time.time() - 1000,) * 2)
    saver.save_checkpoint(content(8), path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("junk", [b"", b"junk", b"Repository not found", b"PK\x03\x04"])
def test_what_is_no_checkpoint_is_told(junk: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(junk)
    for weights_only in (True, None):
        with pytest.raises(ValueError, match=r"a.ckpt cannot be read as a checkpoint \(.*Give another"):
            AtomicCheckpointIO().load_checkpoint(path, weights_only=weights_only)
    with pytest.raises(FileNotFoundError):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "none.ckpt")


class Payload:
    """Runs code where a pickle of it is loaded."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return (Path.touch, (self.place,))


@pytest.mark.parametrize("form", [True, False])
def test_code_in_a_checkpoint_is_refused_without_advice_to_run_it(form: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": Payload(tmp_path / "pwned")}, path, _use_new_zipfile_serialization=form)
    with pytest.raises(ValueError, match="it is damaged, or holds more than tensors and plain values") as error:
        AtomicCheckpointIO().load_checkpoint(path, weights_only=True)
    told = "".join(traceback.format_exception(error.value))
    assert not re.search(r"weights_only.{0,20}False|add_safe_globals|trust", told)
    assert not (tmp_path / "pwned").exists()


def fit(folder: Path, net: Any, resume: Path | None = None, **settings: Any) -> Any:
    """Of epochs of 4 steps; the best is looked for as `best` says, else after each epoch."""
    best = ModelCheckpoint(folder, "best", **settings.pop("best", {}))
    callbacks = [best, *settings.pop("callbacks", [])]
    trainer = quiet_trainer(**{"max_epochs": 3, "enable_checkpointing": True, "callbacks": callbacks, **settings})
    trainer.callbacks.append(LastCheckpoint(best))  # type: ignore[attr-defined]
    module = Standard(net, optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    data = Few(n=16, batch_size=4, seed=0)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True if resume else None)
    return trainer


def step_of(folder: Path) -> int:
    return int(torch.load(folder / "last.ckpt", weights_only=True)["global_step"])


@pytest.mark.parametrize("stop", [{"max_steps": 6}, {"max_steps": 3}, {"max_steps": 8}, {"max_epochs": 2}])
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_that_stops_within_an_epoch_goes_on_with_the_next_batch(stop: dict[str, int], tmp_path: Path) -> None:
    whole, parts = plain_net(), plain_net()
    fit(tmp_path / "whole", whole)
    stopped = fit(tmp_path, parts, **stop)
    assert step_of(tmp_path) == stopped.global_step == stop.get("max_steps", 8)
    resumed = fit(tmp_path, parts, tmp_path / "last.ckpt")
    assert resumed.global_step == step_of(tmp_path) == 12
    torch.testing.assert_close(parts.state_dict(), whole.state_dict(), rtol=0, atol=0)


class Stops(Callback):
    """As a timer does, after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == self.step


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_stopped_by_a_callback_does_too(tmp_path: Path) -> None:
    whole, parts = plain_net(), plain_net()
    fit(tmp_path / "whole", whole)
    fit(tmp_path, parts, callbacks=[Stops(5)])
    assert step_of(tmp_path) == 5
    fit(tmp_path, parts, tmp_path / "last.ckpt")
    torch.testing.assert_close(parts.state_dict(), whole.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("best", "steps"),
    [
        ({}, [4, 8, 12]),
        ({"every_n_train_steps": 5}, [5, 10, 12]),
        ({"every_n_train_steps": 100}, [12]),
        ({"train_time_interval": timedelta(hours=1)}, [12]),
    ],
)
def test_it_comes_as_often_as_the_best_is_looked_for_and_at_the_end(
    best: dict[str, Any], steps: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = Trainer.save_checkpoint

    def noted(self: Trainer, path: Any, *args: Any, **kwargs: Any) -> None:
        if Path(path).name == "last.ckpt":
            saved.append(self.global_step)
        save(self, path, *args, **kwargs)

    monkeypatch.setattr(Trainer, "save_checkpoint", noted)
    fit(tmp_path, plain_net(), best=best)
    assert saved == steps


def test_an_exception_is_saved_where_the_best_ones_are(tmp_path: Path) -> None:
    class Fails(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 6:
                raise RuntimeError("now")

    for name, best in (("with", {"save_on_exception": True}), ("without", {})):
        with pytest.raises(RuntimeError, match="now"):
            fit(tmp_path / name, plain_net(), callbacks=[Fails()], best=best)
    assert [step_of(tmp_path / name) for name in ("with", "without")] == [6, 4]


def test_it_is_another_than_a_plain_one() -> None:
    assert LastCheckpoint(ModelCheckpoint(monitor=None)).state_key != ModelCheckpoint().state_key


def test_nothing_is_left_by_a_run_to_try(tmp_path: Path) -> None:
    fit(tmp_path / "none", plain_net(), fast_dev_run=True)
    assert not (tmp_path / "none").exists()


def test_the_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    AtomicCheckpointIO().save_checkpoint(content(3), "~/a.ckpt")
    assert (tmp_path / "a.ckpt").is_file()
    assert len(AtomicCheckpointIO().load_checkpoint("~/a.ckpt", weights_only=True)["x"]) == 3


def test_what_cannot_be_stored_is_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="pickle") as error:
        AtomicCheckpointIO().save_checkpoint({"x": lambda: 0}, tmp_path / "a.ckpt")
    assert "full?" not in str(error.value)
    assert not list(tmp_path.iterdir())
