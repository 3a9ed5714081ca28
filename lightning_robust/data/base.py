"""The data module every dataset shares: splits, samplers and loaders."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, Dataset, Subset

from lightning_robust.data.images import collate_bytes, unit
from lightning_robust.data.on_device_images import OnDeviceImages
from lightning_robust.data.sampling import EpochSampler, Indexed, ResumableLoader
from lightning_robust.data.splits import by_class, labels
from lightning_robust.runtime.rng import derive_seed, global_seed
from lightning_robust.schedules import Schedule


class RobustDataModule(LightningDataModule, ABC):
    """Images in [0, 1], labels and dataset positions, split so that the test set is never used for selection.

    Validation samples are held out of the training set, by a permutation that depends only on `split_seed`. Evaluation
    counts each sample exactly once on any number of ranks. Training batches depend on (seed, epoch) alone.

    Args:
        batch_size: training samples a step on each device.
        eval_batch_size: evaluation samples a step on each device; `batch_size` by default.
        val_size: how many training samples are held out for validation, > 0.
        num_workers: loading processes on each device.
        seed: of the training order and augmentation; by default that of `seed_everything`.
        split_seed: of the validation split.
        resolution: pixels of the training images on each side, by epoch, rounded; they are resized on the device, and
            small ones train faster (Tan & Le 2021, arXiv 2104.00298). By default they stay as they are.
        on_device: keep the training images on each device, and augment them there, a batch at a time: the same images
            to the bit, for datasets that fit.
        uint8_transfer: send images to the device as bytes, a quarter of the volume, and scale them there: the same
            images to the bit.
        stratified: whether each class gives the same share of its samples for validation; otherwise chance decides.

    Raises:
        ValueError: in `setup`, for an empty dataset, a split that leaves nothing, or a stratified one without labels;
            then, for `on_device` or `uint8_transfer` of images that do not allow it; afterwards, for a checkpoint to
            go on from that held out other samples.
    """

    num_classes: int

    def __init__(
        self,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        val_size: int = 1000,
        num_workers: int = 0,
        seed: int | None = None,
        split_seed: int = 0,
        stratified: bool = False,
        resolution: Schedule | None = None,
        on_device: bool = False,
        uint8_transfer: bool = False,
    ) -> None:
        super().__init__()
        if batch_size < 1 or (eval_batch_size is not None and eval_batch_size < 1):
            raise ValueError(f"Batch sizes must be at least 1, got {batch_size} and {eval_batch_size}.")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.val_size = val_size
        self.num_workers = num_workers
        self.seed = seed
        self.split_seed = split_seed
        self.stratified = stratified
        self.resolution = resolution
        self.on_device, self.uint8_transfer = on_device, uint8_transfer
        self._resident: OnDeviceImages | None = None
        self._held_out: str | None = None

    @abstractmethod
    def train_data(self, augment: bool) -> Dataset[Any]:
        """The whole training set as (image [c h w] in [0, 1], label), with or without augmentation."""

    @abstractmethod
    def test_data(self) -> Dataset[Any]:
        """The test set as (image [c h w] in [0, 1], label)."""

    def transform(self, augment: bool) -> Callable[[Any], Any] | None:
        """From an image as stored [h w] or [h w c] of bytes to [c h w] in [0, 1]; None: scaling alone."""
        return None

    def unlabelled_data(self, labelled: Dataset[Any]) -> Dataset[Any]:
        """Further images with pseudo-labels made from the labelled ones, if the dataset has some of its own.

        Raises:
            ValueError: if it has none.
        """
        raise ValueError(f"{type(self).__name__} has no unlabelled images of its own: give SemiSupervised a file.")

    def setup(self, stage: str | None = None) -> None:
        """Split the training set, or read the test set."""
        self._resident = None
        if stage in (None, "fit", "validate"):
            whole, plain = self.train_data(augment=True), self.train_data(augment=False)
            n = self._sized(whole, "training")
            if not 0 < self.val_size < n:
                raise ValueError(f"val_size must lie between 1 and {n - 1}, got {self.val_size} of {n} samples.")
            generator = torch.Generator().manual_seed(derive_seed(self.split_seed))
            shuffled = torch.randperm(n, generator=generator)
            order = (by_class(shuffled, labels(plain)) if self.stratified else shuffled).tolist()
            held_out = sorted(order[: self.val_size])
            self._held_out = f"{self.val_size} of {n}: {hashlib.sha256(repr(held_out).encode()).hexdigest()[:12]}"
            self.val_set = Indexed(Subset(plain, held_out))
            self.train_set = Indexed(Subset(whole, sorted(order[self.val_size :])))
        if stage in (None, "test", "predict"):
            self.test_set = Indexed(self.test_data())
            self._sized(self.test_set, "test")

    def state_dict(self) -> dict[str, Any]:
        """Which samples are held out."""
        return {"split": self._held_out} if self._held_out else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on, or to validate, with samples held out that were trained on.

        Raises:
            ValueError: if the checkpoint's split is another one.
        """
        theirs, running = state_dict.get("split"), self.trainer.state.fn if self.trainer is not None else None
        if running in (TrainerFn.FITTING, TrainerFn.VALIDATING) and theirs not in (None, self._held_out):
            raise ValueError(
                f"The checkpoint held out other samples for validation ({theirs}) than these data ({self._held_out}): "
                "use the val_size, split_seed and stratified of its config.yaml. To train its net on other data, start "
                "from its weights (`net: {class_path: Pretrained}`)."
            )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Gather training images that wait on the device, scale bytes, and resize to this epoch's resolution."""
        trainer = self.trainer
        training = trainer is not None and trainer.training
        resident, resolution = (self._resident, self.resolution) if training else (None, None)
        if trainer is None or not (resident or resolution or self.uint8_transfer):
            return batch
        x, *rest = batch
        if resident is not None:
            x = resident.gather(rest[-1], drawn=x)
        if not x.is_floating_point():
            x = trainer.precision_plugin.convert_input(unit(x))  # Lightning's own conversion came before
        if resolution is not None:
            size = round(resolution(trainer.current_epoch))
            if x.shape[2:] != (size, size):
                x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False).clamp_(0, 1)
        return [x, *rest]

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled by (seed, epoch), resumable mid-epoch."""
        sampler = self.train_sampler(global_seed() if self.seed is None else self.seed, *self._world())
        dataset, loading = self.train_set, self._loading()
        if self.on_device:
            self._resident = self._resident or OnDeviceImages(self.train_set.dataset)
            dataset, loading = Indexed(self._resident), self._workers()
        return ResumableLoader(dataset, batch_size=self.batch_size, sampler=sampler, **loading)

    def train_sampler(self, seed: int, world_size: int, rank: int) -> EpochSampler:
        """The order of training."""
        return EpochSampler(self.train_set, seed, world_size, rank, self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """The held-out samples, each once."""
        return self._eval_loader(self.val_set)

    def test_dataloader(self) -> DataLoader[Any]:
        """The test set, each sample once."""
        return self._eval_loader(self.test_set)

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test set, each sample once."""
        return self._eval_loader(self.test_set)

    def _eval_loader(self, dataset: Indexed) -> DataLoader[Any]:
        world_size, rank = self._world()
        sampler = UnrepeatedDistributedSampler(dataset, num_replicas=world_size, rank=rank, shuffle=False)
        # batch_size by name: `predict` rebuilds the loader, and fails on a positional one
        return DataLoader(dataset, batch_size=self.eval_batch_size, sampler=sampler, **self._loading())

    def _world(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)

    def _loading(self) -> dict[str, Any]:
        return {**self._workers(), **({"collate_fn": collate_bytes} if self.uint8_transfer else {})}

    def _workers(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }

    @staticmethod
    def _sized(dataset: Any, name: str) -> int:
        if not len(dataset):
            raise ValueError(f"The {name} set is empty: check the data module's root folder.")
        return len(dataset)
