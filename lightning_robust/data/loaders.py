"""The loaders of a data module, and what is done with their batches on the device."""

from typing import Any

import torch
from lightning import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_robust.data.batch_mixing import BatchMixing
from lightning_robust.data.conversion import collate_as_bytes
from lightning_robust.data.device_batch import finish_on_device
from lightning_robust.data.epoch_sampler import EpochSampler
from lightning_robust.data.indexed_dataset import Indexed
from lightning_robust.data.on_device_images import OnDeviceImages
from lightning_robust.data.resumable_loader import ResumableLoader
from lightning_robust.runtime.rng import derive_seed, global_seed
from lightning_robust.schedules import Schedule

MIXING = 1710
"""Keeps what a batch is mixed by apart from the augmentation of its samples; the value is arbitrary."""


class Loaders(LightningDataModule):
    """Loaders over `train_set`, `val_set` and `test_set`, which a subclass makes in `setup`.

    Args:
        batch_size: see `RobustDataModule`, as for the others.
        eval_batch_size: samples of an evaluation's step on each device.
        num_workers: number of loading processes.
        seed: seed of the training order.
        resolution: height and width by epoch.
        on_device: whether training images stay on the device.
        uint8_transfer: whether images travel as bytes.
        mixing: how training batches are mixed.
    """

    train_set: Indexed
    val_set: Indexed
    test_set: Indexed

    def __init__(
        self,
        batch_size: int,
        eval_batch_size: int | None,
        num_workers: int,
        seed: int | None,
        resolution: Schedule | None,
        on_device: bool,
        uint8_transfer: bool,
        mixing: BatchMixing | None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or (eval_batch_size is not None and eval_batch_size < 1):
            raise ValueError(f"Batch sizes must be at least 1, got {batch_size} and {eval_batch_size}.")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.resolution = resolution
        self.on_device = on_device
        self.uint8_transfer = uint8_transfer
        self.mixing = mixing
        self._on_device_images: OnDeviceImages | None = None

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Finish a batch on the device: see `finish_on_device`."""
        if self.trainer is None:
            return batch
        training = self.trainer.training
        images = self._on_device_images if training else None
        resolution = self.resolution if training else None
        mix = self._mix if training and self.mixing is not None else None
        if images is None and resolution is None and mix is None and not self.uint8_transfer:
            return batch
        size = None if resolution is None else round(resolution(self.trainer.current_epoch))
        # Lightning converts the precision before this hook, when images may still be bytes
        return finish_on_device(batch, images, size, self.trainer.precision_plugin.convert_input, mix)

    def _mix(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        assert self.trainer is not None and self.mixing is not None  # noqa: PT018  # asked for by the hook above
        step = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready  # of this epoch, kept in checkpoints
        seed = derive_seed(self._training_seed(), self.trainer.current_epoch, step, MIXING)
        return self.mixing(x, y, getattr(self, "num_classes", None), seed)

    def _training_seed(self) -> int:
        return global_seed() if self.seed is None else self.seed

    def train_dataloader(self) -> ResumableLoader:
        """Return the training loader: shuffled by (seed, epoch), resumable within an epoch."""
        sampler = self.train_sampler(self._training_seed(), *self._world_size_and_rank())
        dataset = self.train_set
        options = self._loader_options()
        if self.on_device:
            self._on_device_images = self._on_device_images or OnDeviceImages(self.train_set.dataset)
            dataset = Indexed(self._on_device_images)
            options = self._worker_options()
        return ResumableLoader(dataset, batch_size=self.batch_size, sampler=sampler, **options)

    def train_sampler(self, seed: int, world_size: int, rank: int) -> EpochSampler:
        """Return the sampler that decides the order of training."""
        return EpochSampler(self.train_set, seed, world_size, rank, self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return a loader over the validation samples, each once."""
        return self._eval_loader(self.val_set, "raise val_size")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return a loader over the test set, each sample once."""
        return self._eval_loader(self.test_set)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return a loader over the test set, each sample once."""
        return self._eval_loader(self.test_set)

    def _eval_loader(self, dataset: Indexed, remedy: str = "give more images") -> DataLoader[Any]:
        world_size, rank = self._world_size_and_rank()
        if not len(dataset):
            raise ValueError(f"There are no images to evaluate on: {remedy}.")
        if len(dataset) < world_size:
            raise ValueError(
                f"{len(dataset)} images cannot be shared by {world_size} devices: set trainer.devices to at most "
                f"{len(dataset)}, or {remedy}."
            )
        sampler = UnrepeatedDistributedSampler(dataset, num_replicas=world_size, rank=rank, shuffle=False)
        # Lightning's `predict` rebuilds the loader, and fails if batch_size is a positional argument
        return DataLoader(dataset, batch_size=self.eval_batch_size, sampler=sampler, **self._loader_options())

    def _world_size_and_rank(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)

    def _loader_options(self) -> dict[str, Any]:
        collate = {"collate_fn": collate_as_bytes} if self.uint8_transfer else {}
        return {**self._worker_options(), **collate}

    def _worker_options(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }
