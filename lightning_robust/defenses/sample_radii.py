"""The base of methods that remember a radius for every training sample."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_robust.defenses.base import Defense
from lightning_robust.parts.per_sample import PerSample
from lightning_robust.types import Batch
from lightning_robust.utils.images import reading_is_free


class SampleRadii(Defense):
    """Remembers a radius for every training sample, from epoch to epoch and in checkpoints; the base of such methods.

    Training batches must carry the samples' positions: wrap the dataset in `lightning_robust.data.Indexed`, or use a
    `RobustDataModule`. The radii are plain tensors, which checkpoints store under "radii". They are exchanged between
    ranks at the end of each epoch and before saving, can be resumed on another number of devices, and are left alone by
    weight averaging. Their quantiles are logged as `train/radius_q<percent>`.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        kwargs: settings of `Defense`.

    Raises:
        ValueError: for batches without positions, or with such as cannot be.
    """

    def __init__(self, net: nn.Module, **kwargs: Any) -> None:
        super().__init__(net, **kwargs)
        self.radii = PerSample()
        self._positions_checked = self._positions_distinct = False

    def positions(self, batch: Batch) -> Tensor:
        """Return the positions [b] of a batch's samples in the training set."""
        if batch.index is None:
            raise ValueError(
                f"{type(self).__name__} remembers a radius for every training sample, but the batch does not say where "
                "its samples stand in the dataset: wrap the training set in lightning_robust.data.Indexed(dataset), or "
                "set index_key."
            )
        if not self._positions_checked or reading_is_free(batch.index):
            self.radii.check(batch.index, self._positions_distinct)
            self._positions_checked = True
        return batch.index

    def on_train_start(self) -> None:
        """Hold a radius for every sample of the training set."""
        dataset: Any = getattr(self.trainer.train_dataloader, "dataset", None)
        if not hasattr(dataset, "__len__"):
            raise ValueError(
                f"{type(self).__name__} remembers a radius for every training sample: it needs one training data "
                f"loader over a dataset with a length, but got a {type(self.trainer.train_dataloader).__name__} over "
                f"{'no one dataset' if dataset is None else f'a {type(dataset).__name__}'}."
            )
        # those of `Indexed` are right; others may repeat only where the sampler draws with replacement
        sampler = getattr(self.trainer.train_dataloader, "sampler", None)
        self._positions_distinct = self.reader.names_positions and not getattr(sampler, "replacement", False)
        self.radii.prepare(len(dataset), self.device)

    def on_train_epoch_end(self) -> None:
        """Exchange the radii, and log their quantiles."""
        self.radii.synchronise()
        for percent in (10, 50, 90):
            value = torch.quantile(self.radii.values, percent / 100)
            self.log(f"train/radius_q{percent}", value, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the radii, exchanged between ranks first unless one may have failed and would be waited for."""
        super().on_save_checkpoint(checkpoint)
        if not self.trainer.interrupted:
            self.radii.synchronise()
        checkpoint["radii"] = self.radii.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the radii from the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        self.radii.load_state_dict(checkpoint["radii"])
