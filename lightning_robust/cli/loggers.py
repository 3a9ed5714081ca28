"""The loggers of a run whose config names none."""

import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from lightning_robust.cli.devices import rank


def run_loggers(place: Path, run: str) -> list[Logger]:
    """Build a CSV logger, and TensorBoard's where it is installed; a requeued job keeps what the earlier ones logged.

    Args:
        place: the folder of all runs of the same data and method.
        run: the run's name, which is its folder's.
    """
    metrics = place / run / "metrics.csv"
    if metrics.exists() and not rank():
        metrics.rename(metrics.with_name(f"metrics-before-{uuid.uuid4().hex[:4]}.csv"))
    settings: dict[str, Any] = {"save_dir": str(place), "name": "", "version": run}
    loggers: list[Logger] = [CSVLogger(**settings)]
    if find_spec("tensorboard"):
        loggers.append(TensorBoardLogger(**settings, default_hp_metric=False))
    return loggers
