"""The base of methods that remember something of each class from epoch to epoch."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from lightning_robust.defenses.base import Defense
from lightning_robust.parts.class_means import ClassMeans
from lightning_robust.utils.labels import smoothed


class ClassMemory(Defense):
    """Remembers, for each class, a mean over its training samples of the epoch before; the base of such methods.

    The means are plain tensors, which weight averaging leaves alone. They are exchanged between ranks when an epoch
    begins. Checkpoints store them, with what the epoch has added so far, under "class_means"; so a run can be resumed
    within an epoch, and on another number of devices.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        kwargs: settings of `Defense`.
    """

    def __init__(self, net: nn.Module, **kwargs: Any) -> None:
        super().__init__(net, **kwargs)
        self.means = ClassMeans()
        self._labels = torch.zeros(0)

    def recall(self, y: Tensor, logits: Tensor) -> Tensor:
        """Return the means [b m] of the samples' classes, and note whose samples the step is on.

        Args:
            y: labels [b] or [b k].
            logits: any logits [b k] of the batch.
        """
        self._labels = smoothed(y, logits.shape[1], 0.0, logits)
        self.means.enter(self.current_epoch, self._labels)
        return self.means(self._labels)

    @abstractmethod
    def remembered(self) -> Tensor:
        """Return what the last step adds to the means of its samples' classes [b m]."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Take the step of `Defense`, and add what is remembered of it."""
        loss = super().training_step(batch, batch_idx)
        self.remember()
        return loss

    def remember(self) -> None:
        """Add what is remembered of the last step to the means of its samples' classes."""
        if not self.gathers_statistics:
            self.means.add(self._labels, self.remembered())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the means, exchanged between ranks first unless one may have failed and would be waited for."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["class_means"] = self.means.state_dict(alone=self.trainer.interrupted)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the means from the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        self.means.load_state_dict(checkpoint["class_means"], first=self.global_rank == 0)
