"""Labelled and pseudo-labelled samples in every training batch, under any loss."""

from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from lightning_robust.data.arrays import check_bytes, check_classes, read_array
from lightning_robust.data.base import RobustDataModule
from lightning_robust.data.images import Images
from lightning_robust.data.sampling import EpochSampler, Indexed, MixedSampler


class Plain(Dataset[tuple[Any, int]]):
    """A dataset with labels as plain integers: a batch cannot hold some as tensors and some not."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        x, y = self.dataset[i][:2]
        return x, int(y)


class SemiSupervised(RobustDataModule):
    """Robust self-training's data: each batch mixes samples of a labelled dataset with pseudo-labelled ones.

    Validation and test samples are the labelled dataset's. An epoch has as many samples as its training set.

    Files are `.npz` archives of plain arrays: "image", bytes [n h w] or [n h w c], and "label" [n] (as the generated
    datasets of the literature). Labels for unlabelled images are made from a checkpoint by one command:
    `lightning-robust predict --config <this> --ckpt_path <net> --trainer.callbacks+=PseudoLabels
    --trainer.callbacks.path=labels.npz`. (The config's model must be the checkpoint's: add `--model Standard
    --model.net SmallConvNet`, say, if another method trains on the labels.)

    Args:
        labelled: the labelled dataset; its own batch and loading settings are not used.
        images: the file with "image" and, unless `labels` is given, "label"; by default the unlabelled images that the
            labelled dataset has of its own.
        labels: a file with "label" alone, in the order of `images`.
        fraction: share of pseudo-labelled samples in each batch, in (0, 1).
        batch_size: training samples a step on each device, both kinds together.
        kwargs: see `RobustDataModule`.

    Raises:
        ValueError: for arrays that are missing or of another form.

    Paper: Carmon et al. 2019 (arXiv 1905.13736), robust self-training.
    Reference: yaircarmon/semisup-adv@3f05b28 (batch 256, fraction 0.5).
    """

    def __init__(
        self,
        labelled: RobustDataModule,
        images: str | None = None,
        labels: str | None = None,
        fraction: float = 0.5,
        batch_size: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        self.labelled, self.images, self.labels, self.fraction = labelled, images, labels, fraction
        self.num_classes = labelled.num_classes

    def prepare_data(self) -> None:
        """Whatever the labelled dataset has to fetch."""
        self.labelled.prepare_data()

    def train_data(self, augment: bool) -> Dataset[Any]:
        """The labelled training set."""
        return self.labelled.train_data(augment)

    def test_data(self) -> Dataset[Any]:
        """The labelled test set."""
        return self.labelled.test_data()

    def pseudo_labelled(self, labelled: Dataset[Any]) -> Dataset[Any]:
        """The images with pseudo-labels; no held-out sample has a part in them."""
        if self.images is None:
            return self.labelled.unlabelled_data(labelled)
        image = self._unlabelled(self.images)
        source = Path(self.labels or self.images).expanduser()
        label = read_array(source, "label")
        check_classes(label, self.num_classes, len(image), source)
        return Images(image, label, self.labelled.transform(augment=True))

    def setup(self, stage: str | None = None) -> None:
        """Append the pseudo-labelled samples to the labelled training set; `predict` runs on their images."""
        super().setup(stage)
        if stage in (None, "fit"):
            labelled: Subset[Any] = self.train_set.dataset
            self.count = len(labelled)
            self.train_set = Indexed(ConcatDataset([Plain(labelled), Plain(self.pseudo_labelled(labelled))]))
        if stage == "predict" and self.images is not None:
            image = self._unlabelled(self.images)
            unknown = np.zeros(len(image), dtype=np.int64)
            self.predict_set = Indexed(Images(image, unknown, self.labelled.transform(augment=False)))

    def train_sampler(self, seed: int, world_size: int, rank: int) -> EpochSampler:
        """Each batch mixed."""
        return MixedSampler(self.train_set, self.count, self.fraction, self.batch_size, seed, world_size, rank)

    def predict_dataloader(self) -> DataLoader[Any]:
        """The unlabelled images of the file."""
        if self.images is None:
            raise ValueError("There is no file of unlabelled images to predict: set SemiSupervised's `images`.")
        return self._eval_loader(self.predict_set)

    @staticmethod
    def _unlabelled(images: str) -> Any:
        path = Path(images).expanduser()
        image = read_array(path, "image")
        check_bytes(image, path)
        return image
