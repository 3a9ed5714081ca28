"""What `predict` leaves: a table of the predictions."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from lightning_robust.callbacks.run_folder import run_folder
from lightning_robust.runtime.ranks import gather_objects
from lightning_robust.utils.batch_reader import BatchReader
from lightning_robust.utils.labels import hard_labels
from lightning_robust.utils.writers import write_csv

FILE = "predictions.csv"
"""Name of the table in the run's folder."""


class Predictions(BasePredictionWriter):
    """Writes one line for each image: its index, its label, the predicted class and that class's probability.

    A label below 0 stands for an unknown one, and is left out. Where a loader has no positions, as that of a stream,
    each rank numbers its images on.
    """

    def __init__(self) -> None:
        super().__init__("batch_and_epoch")
        self._rows: list[tuple[int, int, int, float]] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the images of an earlier run."""
        self._rows = []

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Take the predictions of a batch, if they are logits."""
        if not isinstance(prediction, Tensor) or prediction.dim() != 2:
            return
        start = len(self._rows)
        index, label = batch_indices or range(start, start + len(prediction)), [-1] * len(prediction)
        if not isinstance(batch, Tensor):
            with suppress(TypeError):  # images alone, which `predict_step` takes too
                given = getattr(pl_module, "reader", BatchReader())(batch)
                index = index if given.index is None else given.index.tolist()
                label = hard_labels(given.y).tolist()
        confidence, predicted = prediction.float().softmax(1).max(1)
        self._rows += zip(index, label, predicted.tolist(), confidence.tolist(), strict=True)

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Any, batch_indices: Any
    ) -> None:
        """Write the table of all ranks' images in the order of their indices."""
        folder, rows = run_folder(trainer), sorted(row for part in gather_objects(self._rows) for row in part)
        if not rows or not trainer.is_global_zero:
            return
        told = [(index, label if label >= 0 else "", found, f"{sure:.6f}") for index, label, found, sure in rows]
        write_csv(["index", "label", "predicted", "confidence"], told, folder / FILE)
        labelled = torch.tensor([label == found for _, label, found, _ in rows if label >= 0])
        right = f", {labelled.float().mean():.2%} of them right" if len(labelled) == len(rows) else ""
        print(f"{len(rows)} predictions{right}: {folder / FILE}")
