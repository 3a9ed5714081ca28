"""Collecting the samples of Lightning's evaluation loops until all of them are known."""

import time
from abc import abstractmethod
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_robust.attacks.base import Attack
from lightning_robust.callbacks.any_module import select
from lightning_robust.callbacks.best_report import BestReport
from lightning_robust.callbacks.collected import Collected, expected_bytes
from lightning_robust.callbacks.telling_examples import candidates
from lightning_robust.data.corruption_suite import suite_in
from lightning_robust.evaluation.image_store import ImageStore
from lightning_robust.evaluation.positions import Positions
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.runtime.precision import full_precision
from lightning_robust.utils.labels import check_labels
from lightning_robust.utils.logits import check_logits, check_no_nan
from lightning_robust.utils.private_apis import evaluation_loaders, evaluation_loop


class SampleCollector(BestReport):
    """Checks, classifies and keeps the samples of the evaluation loop, and hands over after its last batch.

    Args:
        name: see `BestReport`.
        loaders: the numbers of the data loaders to collect from; by default all.
        fit_samples: in the validation inside fit, keep only this many samples of each; by default all.
        samples: in `validate` and `test`, keep only this many samples of each; by default all. Of corrupted images they
            are as many of each corruption and severity.
        figure_samples: how many will be drawn.
        image_memory: GiB of main memory in which the images of each loader may wait on each rank.
        state_dir: where further images wait; by default in the trainer's root directory.
        kwargs: see `AnyModule`.

    Raises:
        ValueError: for `fit_samples` below 1, `figure_samples` or `image_memory` below 0; in the loop, for bad input,
            or a loader that is not there.
        OSError: in the loop, for images that `state_dir` has no room for.
    """

    def __init__(
        self,
        name: str | None = None,
        loaders: list[int] | None = None,
        fit_samples: int | None = None,
        samples: int | None = None,
        figure_samples: int = 8,
        image_memory: float = 8.0,
        state_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        for name_, most in {"fit_samples": fit_samples, "samples": samples}.items():
            if most is not None and most < 1:
                raise ValueError(f"{name_} must be at least 1, got {most}.")
        if figure_samples < 0:
            raise ValueError(f"figure_samples must be at least 0, got {figure_samples}.")
        if not image_memory >= 0:
            raise ValueError(f"image_memory must be at least 0 GiB, got {image_memory}.")
        self.loaders, self.figure_samples = loaders, figure_samples
        self.image_memory, self.state_dir = image_memory, state_dir
        self.fit_samples, self.samples = fit_samples, samples
        self._loaders: dict[int, Collected] = {}
        self._running: dict[str, Attack] = {}  # the attacks of this run, under their threats
        self._evaluated = self._told_of_order = self._told_of_memory = False

    def most(self, trainer: Trainer) -> int | None:
        """Return how many samples of a loader are evaluated in this run, the first ones; None for all."""
        return self.fit_samples if trainer.state.fn == "fit" else self.samples

    def image_store(self, trainer: Trainer) -> ImageStore:
        """Return what keeps the images of a loader."""
        return ImageStore(self.image_memory * 2**30, Path(self.state_dir or trainer.default_root_dir))

    @abstractmethod
    def _evaluate(self, trainer: Trainer, module: LightningModule) -> None:
        """Evaluate what was collected; all ranks call it together."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the samples of the last epoch."""
        self._loaders, self._evaluated = {}, False
        n = len(evaluation_loaders(trainer))
        if self.loaders is not None and not all(0 <= i < n for i in self.loaders):
            raise ValueError(
                f"loaders={self.loaders} names a data loader that does not exist: choose from 0 to {n - 1}."
            )

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the batch, and evaluate all of them after the last one."""
        if self.loaders is None or dataloader_idx in self.loaders:
            self._collect(trainer, pl_module, batch, batch_idx, dataloader_idx)
        # not at the epoch's end: there weight averaging may have taken its weights back already
        if evaluation_loop(trainer).batch_progress.is_last_batch and not trainer.sanity_checking:
            self._evaluate(trainer, pl_module)

    on_test_batch_end = on_validation_batch_end

    def _collect(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int, number: int) -> None:
        """Check a batch of a data loader, classify it, and keep it to be attacked."""
        net, batch = self.net(module), self.read(module, batch)
        if number not in self._loaders:
            shown = candidates(self.figure_samples, batch.x.shape[1:])
            suite = suite_in(evaluation_loaders(trainer)[number])
            self._loaders[number] = Collected(Positions(trainer, number), shown, suite, self.image_store(trainer))
        loader = self._loaders[number]
        assert loader.positions is not None
        position, keep = loader.positions.next(len(batch.x), batch.x.device)
        if self.ignore_index is not None:
            counts = self.counts(batch.y)
            batch, position, keep = select(batch, counts), position[counts], keep[counts]
            if not len(batch.x):
                return
        for box in {(attack.threat.lower, attack.threat.upper) for attack in self._running.values()}:
            self.check_pixels(batch.x, *box)
        if trainer.sanity_checking and batch_idx:
            return
        most = self.most(trainer)
        if most is not None:
            keep &= loader.place(position, batch.index) < most
            if loader.batches and not keep.any():
                return
        start = time.perf_counter()
        with full_precision(batch.x):
            logits = logits_no_grad(net, batch.x)
        if not loader.batches:
            check_logits(logits, batch.y)
        check_no_nan(logits, batch_idx)
        check_labels(batch.y, logits.shape[1])
        if trainer.sanity_checking:
            return
        images, identify = bool(self._running), trainer.state.fn != "fit"
        loader.collect(batch, position, logits, keep, images, identify)
        loader.seconds += time.perf_counter() - start
        if not self._told_of_memory:
            self._told_of_memory = True
            batches = evaluation_loop(trainer).max_batches[number]
            if told := loader.store.announcement(expected_bytes(loader, batches, most, trainer.world_size)):
                rank_zero_info(told)
        if not (loader.indexed or self._told_of_order):
            self._told_of_order = True
            rank_zero_info(
                "warning: the order of the data loader is unknown (it shuffles, has a custom sampler, or differs "
                "between devices), so the index in samples.csv is empty: wrap the dataset in "
                "lightning_robust.data.Indexed, or set index_key."
            )
