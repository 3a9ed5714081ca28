"""Which numbers a run can choose its best checkpoint by, or stop by."""

from collections.abc import Iterable, Iterator
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_robust.callbacks import CorruptionAccuracy, EffectiveMargins, RobustEvaluation
from lightning_robust.evaluation.calibration_table import COLUMNS
from lightning_robust.utils.messages import did_you_mean

_NOT_LOGGED = ("could not find the monitored key", "Early stopping conditioned on metric", "which is not available")
"""How Lightning says that a monitor is unknown, once it looks for it."""


def check_monitors(trainer: Trainer, model: Any, datamodule: Any, schedule: str | None = None) -> None:
    """Refuse to start where a checkpoint or early stopping waits for a number of the validation that never comes.

    Numbers of a user's own classes are not known beforehand: where there are such, Lightning refuses after an epoch.

    Args:
        trainer: with its callbacks.
        model: the defense.
        datamodule: the data; with several loaders the numbers have other names.
        schedule: what the learning-rate schedule waits for, if it does.

    Raises:
        ValueError: naming the monitor, and the nearest right one.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    parts = (model, datamodule, *callbacks)
    ours = all(type(part).__module__.startswith(("lightning.", "lightning_robust.")) for part in parts)
    if not ours or any(isinstance(callback, CorruptionAccuracy) for callback in callbacks):
        return
    known = {"val/loss", "val/clean_acc", *_logged(callbacks, model)}
    waiting = [part for part in callbacks if isinstance(part, (ModelCheckpoint, EarlyStopping))]
    monitors = [("The learning-rate schedule", schedule), *((type(part).__name__, part.monitor) for part in waiting)]
    for who, monitor in monitors:
        if monitor is not None and monitor.startswith("val") and monitor not in known:
            raise ValueError(f"{who} monitors {monitor!r}, which this run does not log{did_you_mean(monitor, known)}")


def is_unknown_monitor(error: BaseException) -> bool:
    """Whether Lightning has ended a run because what it monitors was never logged."""
    return any(told in str(error) for told in _NOT_LOGGED)


def _logged(callbacks: Iterable[Callback], model: Any) -> Iterator[str]:
    """Name what the callbacks of this package log in a validation inside fit."""
    for callback in callbacks:
        if isinstance(callback, RobustEvaluation):
            prefix = "val" if callback.name is None else f"val/{callback.name}"
            attacks = callback.attacks_on(model, fitting=True)
            yield from (f"{prefix}/{name}_acc" for name in ("clean", "worst", *attacks))
            cases = ("clean", "worst") if callback.fit_attacks else ("clean",)
            yield from (f"{prefix}/{case}_{name}" for case in cases for name in COLUMNS if callback.calibration)
        if isinstance(callback, EffectiveMargins):
            yield from ("val/effective_margin", "val/effective_weight_norm")
