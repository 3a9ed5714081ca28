"""Effective margins and effective weight norms, logged in validation and test."""

from typing import Any

from lightning import LightningModule, Trainer
from torchmetrics import MeanMetric

from lightning_robust.callbacks.any_module import AnyModule
from lightning_robust.evaluation.positions import Positions
from lightning_robust.metrics import EffectiveMargin
from lightning_robust.metrics.functional import effective_weight_norm
from lightning_robust.runtime.modes import disable_inference_mode
from lightning_robust.runtime.precision import full_precision


class EffectiveMargins(AnyModule):
    """Logs `val/effective_margin` and `val/effective_weight_norm` (and `test/...`) of any LightningModule's net.

    They are means over all samples, each counted once on any number of devices.

    Args:
        candidates: classes compared with the label's for the margin, each one backward pass; by default all others.
        temperature: softmax temperature of the weight norm, > 0.
        kwargs: `image_key`, `label_key`, `index_key`, `read_batch`, `forward`, `mean`, `std`, `ignore_index`; see
            `lightning_robust.callbacks.any_module.AnyModule`.

    Raises:
        TypeError: in the loop, for an unreadable batch.
        ValueError: in the loop, for images outside [0, 1] after undoing `mean` and `std`.
    """

    def __init__(self, candidates: int | None = None, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.margin, self.norm = EffectiveMargin(candidates), MeanMetric(nan_strategy="disable")
        self.temperature = temperature
        self._positions: dict[int, Positions] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let gradients be taken in the evaluation loops."""
        disable_inference_mode(trainer)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the means for this epoch."""
        self._positions = {}
        for metric in (self.margin, self.norm):
            metric.to(pl_module.device)
            metric.reset()

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
        """Measure the margins and norms of the batch."""
        if not trainer.sanity_checking:
            net, given = self.net(pl_module), self.read(pl_module, batch)
            if not batch_idx:
                self.check_pixels(given.x, 0.0, 1.0)
            positions = self._positions.setdefault(dataloader_idx, Positions(trainer, dataloader_idx))
            keep = positions.next(len(given.x), given.x.device)[1]
            keep &= self.counts(given.y)
            x, y = given.x[keep], given.y[keep]
            if len(x):
                with full_precision(x):
                    self.margin.update(net, x, y)
                    self.norm.update(effective_weight_norm(net, x, self.temperature))

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the means over the epoch's samples."""
        if not trainer.sanity_checking:
            stage = "test" if trainer.testing else "val"
            pl_module.log(f"{stage}/effective_margin", self.margin.compute(), sync_dist=True)
            pl_module.log(f"{stage}/effective_weight_norm", self.norm.compute(), sync_dist=True)

    on_test_epoch_end = on_validation_epoch_end
