"""Checkpoints that are whole or not there."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lightning_robust.errors import first_line


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, each written beside its place and then moved there at once.

    Lightning writes them where temporary files lie. Where that is another file system than the checkpoint's, as on most
    clusters, it then copies, and a kill or a full disk in the middle spoils the checkpoint that was there before
    (https://github.com/fsspec/filesystem_spec/blob/master/fsspec/implementations/local.py, `LocalFileOpener.commit`).

    The command line uses it; elsewhere give it to a trainer: `Trainer(plugins=[AtomicCheckpointIO()])`.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint; addresses such as s3:// are left to Lightning.

        Raises:
            OSError: if it cannot be written; what was there stays.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f".{place.name}.tmp")
        try:
            with beside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, place)
        except (OSError, RuntimeError) as error:  # torch's writer hides the system's error in its own
            beside.unlink(missing_ok=True)
            raise OSError(
                f"The checkpoint {place} was not written ({first_line(error)}) Is the disk full? What was saved before "
                "is whole: make room and go on from there."
            ) from error

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            FileNotFoundError: if it is not there.
            ValueError: if it cannot be read.
        """
        try:
            return super().load_checkpoint(path, *args, **kwargs)
        except FileNotFoundError:
            raise
        except Exception as error:  # what is no checkpoint at all makes the reader fail in any way
            raise ValueError(
                f"{path} cannot be read as a checkpoint ({first_line(error)}) Give another one of the run, or start "
                "without."
            ) from error
