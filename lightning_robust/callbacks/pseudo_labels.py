"""Labels for unlabelled images, from a trained net."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer


class PseudoLabels(Callback):
    """Writes the classes that `predict` finds to an `.npz` archive as "label" [n], in the order of the images.

    Args:
        path: the file to write.

    Raises:
        ValueError: on several devices: each sees only its share of the images.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._labels: list[torch.Tensor] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse several devices, and forget earlier labels."""
        if trainer.world_size > 1:
            raise ValueError("PseudoLabels needs one device: run predict with --trainer.devices 1.")
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
        self._labels.append(outputs.argmax(1).cpu())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the labels to the archive."""
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(self.path, label=torch.cat(self._labels).numpy())
