"""Measurement of a recipe by a few of its steps: each part of an epoch, and an attack."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from lightning_robust.attacks import progress
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.utils.labels import is_soft, smoothed

PROBES = 5
"""Epochs of which a few steps are measured, from all parts of the recipe: methods change after their warm-up."""


def now() -> float:
    """Return the time in seconds, after the device's queued work is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass
class Epoch:
    """The seconds that the parts of a measured epoch took."""

    began: float
    ends: list[float] = field(default_factory=list)  # of its steps
    attack: float = 0.0  # of all of them, in the attack
    validation: float = 0.0
    rest: float = 0.0  # after the last step, but for validation

    @property
    def step(self) -> float:
        """Seconds of a step, with loading and logging; the first step of an epoch waits for the loader to start."""
        gaps = [b - a for a, b in pairwise(self.ends)]
        return statistics.median(gaps) if gaps else self.ends[0] - self.began

    def whole(self, steps: int, validations: float) -> float:
        """Return the seconds of the epoch with so many steps, and so many times the validation that was measured."""
        first = self.ends[0] - self.began
        return first + (steps - 1) * self.step + validations * self.validation + self.rest


class Stopwatch(Callback):
    """Measures a few steps of epochs spread over the recipe, then ends the fit.

    A label is the net's own prediction, so that methods and attacks which leave wrong samples alone have all the work
    that they would have with a trained net.

    Args:
        epochs: number of epochs of the recipe.
    """

    def __init__(self, epochs: int) -> None:
        count = min(PROBES, epochs)
        # the first epoch is measured for what comes once alone: compiling, starting the loading processes
        self.chosen = sorted({0, *(int((i + 0.5) * epochs / count) for i in range(count))})
        self.measured: list[Epoch] = []
        self.began, self.aside = now(), 0.0

    def clock(self) -> float:
        """Return the time in seconds, less what was spent on labels."""
        return now() - self.aside

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Wrap the module's `generate` to time its attacks."""
        generate = pl_module.generate

        def timed(batch: Any) -> Any:
            began = self.clock()
            views = generate(batch)
            self.measured[-1].attack += self.clock() - began
            return views

        pl_module.generate = timed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Close the epoch before, if there was one, and open this one."""
        self._settle()
        self.measured.append(Epoch(self.clock()))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Replace the labels by the net's own predictions."""
        began = now()
        given = pl_module.reader(batch)
        logits = logits_no_grad(pl_module, given.x)
        predicted = logits.argmax(1)
        given.y.copy_(smoothed(predicted, logits.shape[1], 0, given.y) if is_soft(given.y) else predicted)
        self.aside += now() - began

    on_validation_batch_start = on_train_batch_start

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        """Record when the step ended."""
        self.measured[-1].ends.append(self.clock())

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Record when the validation began."""
        if self.measured:
            self.measured[-1].validation -= self.clock()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Record when the validation ended."""
        if self.measured:
            self.measured[-1].validation += self.clock()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Go on with the next of the chosen epochs."""
        if len(self.measured) == len(self.chosen):
            trainer.should_stop = True
            return
        progress: Any = trainer.fit_loop.epoch_progress.current
        epoch = self.chosen[len(self.measured)]
        progress.processed = epoch
        progress.completed = epoch - 1  # Lightning counts this epoch as completed once the hook is over

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Close the last epoch and unwrap `generate`."""
        self._settle()
        del pl_module.generate

    def _settle(self) -> None:
        if self.measured:
            last = self.measured[-1]
            last.rest = self.clock() - last.ends[-1] - last.validation


class _Enough(Exception):
    """Raised where an attack has run long enough to be extrapolated."""


def attack_seconds(attack: Callable[..., Tensor], net: Any, x: Tensor, limit: float = 10.0) -> float:
    """Return the seconds of an attack on images [b c h w], labelled as predicted; extrapolated after `limit` seconds.

    An upper bound: of a trained net some samples are misclassified or broken early, and leave.
    """
    y, began, share = logits_no_grad(net, x).argmax(1), now(), 0.0

    def listen(done: int, total: int) -> None:
        nonlocal share
        if now() - began > limit:
            share = done / total
            raise _Enough

    try:
        with progress.listen(listen):
            attack(net, x, y, rng=SampleRNG(0, torch.arange(len(x), device=x.device)))
    except _Enough:
        return (now() - began) / share
    return now() - began
