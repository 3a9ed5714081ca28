"""Labels for unlabelled images, from a trained net."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from lightning_robust.evaluation.positions import in_order
from lightning_robust.runtime.outputs import logits_of
from lightning_robust.utils.files import atomic_write
from lightning_robust.utils.private_apis import prediction_loaders


class PseudoLabels(Callback):
    """Writes the classes that `predict` finds to an `.npz` archive as "label" [n], in the order of the images.

    Args:
        path: the file to write; its name ends in ".npz", which is added where it is missing.

    Raises:
        ValueError: on several devices, where each sees only its share of the images; for several data loaders, or one
            that does not follow the order of its dataset.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._labels: list[torch.Tensor] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse several devices and other orders, and forget earlier labels."""
        if trainer.world_size > 1:
            raise ValueError("PseudoLabels needs one device: run predict with --trainer.devices 1.")
        loaders = prediction_loaders(trainer)
        if len(loaders) != 1 or not in_order(loaders[0]):
            raise ValueError(
                "PseudoLabels writes labels in the order of the images: predict with one data loader, and without "
                "shuffling or a sampler of its own."
            )
        self._labels = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the class of the largest logit of each image."""
        self._labels.append(logits_of(outputs).argmax(1).cpu())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the labels to the archive."""
        path = Path(self.path if self.path.endswith(".npz") else f"{self.path}.npz")
        with atomic_write(path) as beside, beside.open("wb") as file:
            np.savez_compressed(file, label=torch.cat(self._labels).numpy())
