"""Switching a trainer's validation off while nothing is held out, and on again."""

from typing import Any


class ValidationSwitch:
    """Keeps a trainer from validating while there is nothing to validate on.

    Lightning would ask for a loader, and warn that it is empty.
    """

    def __init__(self) -> None:
        self._limit: int | float | None = None  # the trainer's own limit, while validation is off

    def off(self, trainer: Any) -> None:
        """Let the trainer validate on no batches."""
        if self._limit is None:
            self._limit = trainer.limit_val_batches
        trainer.limit_val_batches = 0

    def on(self, trainer: Any) -> None:
        """Give the trainer back the limit that it had."""
        if self._limit is not None and trainer is not None:
            trainer.limit_val_batches, self._limit = self._limit, None
