"""Checkpoints that are never left half written, and the last checkpoint of a run."""

import pickle
from pathlib import Path
from typing import Any

import torch
from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_robust.utils.files import atomic_write
from lightning_robust.utils.messages import describe_error
from lightning_robust.utils.private_apis import last_checkpoints, saving_intervals


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes Lightning's checkpoints atomically: each beside its place, and then moved there at once.

    Lightning writes them where temporary files lie. Where that is another file system than the checkpoint's, as on most
    clusters, it then copies, and a kill or a full disk in the middle spoils the checkpoint that was there before
    (https://github.com/fsspec/filesystem_spec/blob/master/fsspec/implementations/local.py, `LocalFileOpener.commit`).

    The command line uses it; elsewhere give it to a trainer: `Trainer(plugins=[AtomicCheckpointIO()])`.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint; what is not on a file system, such as s3://, is left to Lightning.

        Raises:
            OSError: if it cannot be written; what was there stays.
        """
        system, local = url_to_fs(str(path))
        if not isinstance(system, LocalFileSystem) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(local)
        try:
            with atomic_write(place) as beside, beside.open("wb") as file:
                torch.save(checkpoint, file)
        except Exception as error:
            # torch's writer hides the system's error in its own
            if isinstance(error, OSError) or "PytorchStreamWriter" in str(error) or "inline_container" in str(error):
                raise OSError(
                    f"The checkpoint {place} was not written ({describe_error(error)}) Is the disk full? What was "
                    "saved before is whole: make room and go on from there."
                ) from error
            raise

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint from a file or folder.

        Raises:
            FileNotFoundError: if it is not there.
            ValueError: if it cannot be read.
        """
        try:
            content: Any = super().load_checkpoint(path, *args, **kwargs)
        except FileNotFoundError:
            raise
        except pickle.UnpicklingError:  # torch's own message says how to let the file run its code
            raise ValueError(
                f"{path} was not loaded: it is damaged, or holds more than tensors and plain values, which could run "
                "code. Give another one of the run, or start without."
            ) from None
        except Exception as error:  # what is no checkpoint at all makes the reader fail in any way
            raise ValueError(
                f"{path} cannot be read as a checkpoint ({describe_error(error)}) Give another one of the run, or "
                "start without."
            ) from error
        lacking = [key for key in ("state_dict", "pytorch-lightning_version") if key not in content]
        if not isinstance(content, dict) or lacking:
            what = f"it lacks {' and '.join(lacking)}" if isinstance(content, dict) else "it holds no mapping"
            raise ValueError(f"{path} is no checkpoint of a training: {what}. Give one that `fit` has saved.")
        return content


class LastCheckpoint(ModelCheckpoint):
    """Saves `last.ckpt` after every epoch, or as often as the best checkpoint is looked for by steps or time.

    Lightning's `save_last` writes only where the best one changed, so a killed run would go on from the best
    (https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.6/src/lightning/pytorch/callbacks/model_checkpoint.py).
    And it takes an epoch in which training stopped (`max_steps`, `max_time`) for a whole one, so that a resumed run
    would leave out the rest. Here it goes on with the next batch.

    Args:
        best: the checkpointing of the best ones, whose folder and intervals are taken.
    """

    def __init__(self, best: ModelCheckpoint) -> None:
        intervals = saving_intervals(best)
        self.by_epoch = not any(intervals.values())
        super().__init__(
            best.dirpath,
            "last",
            **intervals,
            save_weights_only=best.save_weights_only,
            save_on_exception=best.save_on_exception,
            enable_version_counter=False,
        )

    @property
    def state_key(self) -> str:
        """The key of its state, which no other checkpoint callback of the same settings shares."""
        return type(self).__qualname__

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Save when it is time, or where training stops within an epoch."""
        if not self.by_epoch:
            super().on_train_batch_end(trainer, pl_module, *args)
        if (trainer.should_stop or trainer.global_step == trainer.max_steps) and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after a whole epoch, or after the last one."""
        done = trainer.current_epoch + 1 == trainer.max_epochs or trainer.global_step == trainer.max_steps
        if trainer.is_last_batch and (self.by_epoch or done or trainer.should_stop):
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: the epoch is not over yet."""

    def _save(self, trainer: Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self.format_checkpoint_name({}), self.save_weights_only)


def newest_checkpoint(trainer: Trainer, asked: str | None) -> str | None:
    """Return the checkpoint that a job resumes from if "last" is asked for, or none and a scheduler's signal left one.

    Lightning's "last" knows none of those that a signal leaves (`hpc_ckpt_<number>.ckpt`), and without it Lightning
    takes those, however old. Anything else that is asked for stays as it is.
    """
    signalled = list(Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt")) if SLURMEnvironment.detect() else []
    if asked != "last" and (asked is not None or not signalled):
        return asked
    savers = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    found = [*signalled, *(path for saver in savers for path in last_checkpoints(saver, trainer))]
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    return asked if newest is None else str(newest)
