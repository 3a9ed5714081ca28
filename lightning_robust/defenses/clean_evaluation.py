"""Loss and accuracy on clean images in the evaluation loops."""

from lightning import Trainer
from torch import Tensor

from lightning_robust.evaluation.positions import Positions
from lightning_robust.losses import cross_entropy
from lightning_robust.utils.labels import hard_labels


class CleanEvaluation:
    """Computes what a defense's own validation and test log, each sample counted once on any number of devices."""

    def __init__(self) -> None:
        self._positions: dict[int, Positions] = {}

    def __call__(
        self, trainer: Trainer, logits: Tensor, y: Tensor, batch_idx: int, dataloader_idx: int
    ) -> dict[str, Tensor]:
        """Return one value for each sample that counts, as "loss" and "clean_acc".

        Args:
            trainer: in its evaluation loop.
            logits: logits [b k] of the clean images.
            y: labels [b] or [b k].
            batch_idx: number of the batch in its data loader.
            dataloader_idx: number of the data loader.
        """
        if not batch_idx:
            self._positions[dataloader_idx] = Positions(trainer, dataloader_idx)
        counts = self._positions[dataloader_idx].next(len(y), y.device)[1]
        values = {"loss": cross_entropy(logits, y), "clean_acc": (logits.argmax(1) == hard_labels(y)).float()}
        return {name: value[counts] for name, value in values.items()}
