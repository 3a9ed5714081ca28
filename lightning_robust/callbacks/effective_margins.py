"""Effective margins and effective weight norms, logged in validation and test."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from torchmetrics import MeanMetric

from lightning_robust.callbacks.any_module import AnyModule
from lightning_robust.evaluation.positions import Positions
from lightning_robust.metrics import EffectiveMargin
from lightning_robust.metrics.functional import effective_weight_norm
from lightning_robust.runtime.modes import disable_inference_mode
from lightning_robust.runtime.precision import full_precision
from lightning_robust.utils.private_apis import evaluation_loaders


class _Means:
    """The means over one data loader's samples.

    Args:
        positions: counts through the loader.
        candidates: see `EffectiveMargins`.
        device: where the samples are.
    """

    def __init__(self, positions: Positions, candidates: int | None, device: torch.device) -> None:
        self.positions = positions
        self.margin = EffectiveMargin(candidates).to(device)
        self.norm = MeanMetric(nan_strategy="disable").to(device)


class EffectiveMargins(AnyModule):
    """Logs `val/effective_margin` and `val/effective_weight_norm` (and `test/...`) of any LightningModule's net.

    They are means over all samples, each counted once on any number of devices. With several data loaders each has its
    own, and their names end in `/dataloader_idx_<i>` as Lightning's own do.

    Args:
        candidates: classes compared with the label's for the margin, each one backward pass; by default all others.
        temperature: softmax temperature of the weight norm, > 0.
        kwargs: `image_key`, `label_key`, `index_key`, `read_batch`, `forward`, `mean`, `std`, `ignore_index`; see
            `lightning_robust.callbacks.any_module.AnyModule`.

    Raises:
        TypeError: in the loop, for an unreadable batch, or images of another type than the net's weights.
        ValueError: in the loop, for images outside [0, 1] after undoing `mean` and `std`.
    """

    def __init__(self, candidates: int | None = None, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.candidates, self.temperature = candidates, temperature
        self._loaders: list[_Means] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let gradients be taken in the evaluation loops."""
        disable_inference_mode(trainer)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the means of each data loader."""
        n, device = len(evaluation_loaders(trainer)), pl_module.device
        self._loaders = [_Means(Positions(trainer, i), self.candidates, device) for i in range(n)]

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
            loader = self._loaders[dataloader_idx]
            keep = loader.positions.next(len(given.x), given.x.device)[1]
            keep &= self.counts(given.y)
            x, y = given.x[keep], given.y[keep]
            with full_precision(x):
                loader.margin.update(net, x, y)
                loader.norm.update(effective_weight_norm(net, x, self.temperature) if len(x) else x.new_empty(0))

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the means over the epoch's samples."""
        stage = "test" if trainer.testing else "val"
        for i, loader in enumerate(() if trainer.sanity_checking else self._loaders):
            end = f"/dataloader_idx_{i}" if len(self._loaders) > 1 else ""
            for name, mean in {"margin": loader.margin, "weight_norm": loader.norm}.items():
                key = f"{stage}/effective_{name}{end}"
                pl_module.log(key, mean.compute(), sync_dist=True, batch_size=1, add_dataloader_idx=False)

    on_test_epoch_end = on_validation_epoch_end
