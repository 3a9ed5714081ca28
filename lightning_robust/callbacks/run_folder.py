"""The folder that a run's files lie in."""

from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_robust.utils.named_class import is_named

WRITTEN = ("*robustness*.json", "corruptions.json", "*samples*.csv", "*examples*.npz", "figures/*")
"""What callbacks write into a run's folder."""


def run_folder(trainer: Trainer) -> Path:
    """Return the folder that this trainer's callbacks write to; call it on every rank.

    The command line gives each run a folder of its own, whatever the loggers. With any other trainer it is the log
    directory of the first logger if that is a `CSVLogger` or a `TensorBoardLogger`, and `default_root_dir` otherwise.
    Where files of another run, or of the user, lie there under the same names, it is `run-1` within that folder, or
    the next free number. It is decided once for each trainer, so `fit` and then `test` write to the same place.
    """
    known: Path | None = getattr(trainer, "run_folder", None)
    if known is None:
        known = Path(trainer.strategy.broadcast(str(_free(_usual(trainer)))))
        trainer.run_folder = known  # type: ignore[attr-defined]
    return known


def _usual(trainer: Trainer) -> Path:
    first: Any = trainer.logger
    return Path(first.log_dir if is_named(first, "CSVLogger", "TensorBoardLogger") else trainer.default_root_dir)


def _free(folder: Path) -> Path:
    """The folder itself, or the first numbered one within it where none of our files lies."""
    found, number = folder, 0
    while any(path for pattern in WRITTEN for path in found.glob(pattern)):
        number += 1
        found = folder / f"run-{number}"
    if number:
        rank_zero_info(f"{folder} holds the files of another run: this one writes to {found}.")
    return found
