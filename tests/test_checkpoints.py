"""Checkpoints survive kills and full disks."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_robust.checkpoints import AtomicCheckpointIO
from lightning_robust.defenses import Standard
from tests.ddp import quiet_trainer, run_ddp
from tests.few import Few, plain_net


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
    return {"x": torch.full((n,), value)}


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
    assert len(list(tmp_path.iterdir())) == 2
    assert len(saver.load_checkpoint(path, weights_only=True)["x"]) == 7
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
