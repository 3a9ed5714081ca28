"""Training batches that mix labelled and pseudo-labelled samples, for any loss."""

from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from lightning_robust.data.arrays import check_bytes, check_classes, read_array
from lightning_robust.data.data_around import DataAround
from lightning_robust.data.data_module import RobustDataModule
from lightning_robust.data.epoch_sampler import EpochSampler
from lightning_robust.data.images import Images
from lightning_robust.data.indexed_dataset import Indexed
from lightning_robust.data.int_labels import IntLabels
from lightning_robust.data.mixed_sampler import MixedSampler


class SemiSupervised(DataAround):
    """Data module of robust self-training: each batch mixes samples of a labelled dataset with pseudo-labelled ones.

    Validation and test samples are the labelled dataset's. An epoch has about as many samples as its training set.

    Files are `.npz` archives of plain arrays: "image", bytes [n h w] or [n h w c], and "label" [n], as the generated
    datasets of the literature have them. One command makes labels for unlabelled images from a checkpoint:
    `lightning-robust predict --config <this> --ckpt_path <net> --trainer.callbacks+=PseudoLabels
    --trainer.callbacks.path=labels.npz`. The config's model must be the checkpoint's: if the labels are for another
    method, add `--model Standard --model.net SmallConvNet`, say.

    Args:
        labelled: the labelled dataset's data module; its own batch and loading settings are not used.
        images: file with "image" and, unless `labels` is given, "label"; by default the unlabelled images that the
            labelled dataset has of its own.
        labels: file with only "label", in the order of `images`.
        fraction: share of pseudo-labelled samples in each batch, in (0, 1).
        batch_size: training samples of a step on each device, both kinds together.
        kwargs: further arguments of `RobustDataModule`.

    Raises:
        ValueError: in `setup`, for arrays that are missing or have another form.

    Example:
        >>> from lightning_robust.data import Digits
        >>> data = SemiSupervised(Digits(unlabelled=600), fraction=0.5, batch_size=64, val_size=150, seed=0)
        >>> data.setup("fit")
        >>> x, y, index = next(iter(data.train_dataloader()))
        >>> (index >= 1347 - 600 - 150).sum()  # pseudo-labelled samples come after the labelled ones
        tensor(32)

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
        super().__init__(labelled, batch_size=batch_size, **kwargs)
        self.labelled = labelled
        self.images = images
        self.labels = labels
        self.fraction = fraction

    def pseudo_labelled(self, labelled: Dataset[Any]) -> Dataset[Any]:
        """Return the images with pseudo-labels.

        Args:
            labelled: the labelled training samples without the held-out ones, which must not influence the labels.
        """
        if self.images is None:
            return self.labelled.unlabelled_data(labelled)
        image = _read_images(self.images)
        source = Path(self.labels or self.images).expanduser()
        label = read_array(source, "label")
        check_classes(label, self.num_classes, len(image), source)
        return Images(image, label, self.labelled.transform(augment=True))

    def setup(self, stage: str | None = None) -> None:
        """Append the pseudo-labelled samples to the training set; for "predict", read the unlabelled images."""
        super().setup(stage)
        if stage in (None, "fit"):
            labelled: Subset[Any] = self.train_set.dataset
            self.num_labelled = len(labelled)
            self.train_set = Indexed(ConcatDataset([IntLabels(labelled), IntLabels(self.pseudo_labelled(labelled))]))
        if stage == "predict" and self.images is not None:
            image = _read_images(self.images)
            unknown = np.full(len(image), -1)
            self.predict_set = Indexed(Images(image, unknown, self.labelled.transform(augment=False)))

    def train_sampler(self, seed: int, world_size: int, rank: int) -> EpochSampler:
        """Return the sampler of mixed batches."""
        return MixedSampler(self.train_set, self.num_labelled, self.fraction, self.batch_size, seed, world_size, rank)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return a loader over the file's unlabelled images.

        Raises:
            ValueError: if there is no file.
        """
        if self.images is None:
            raise ValueError("There is no file of unlabelled images to predict: set SemiSupervised's `images`.")
        return self._eval_loader(self.predict_set)


def _read_images(file: str) -> Any:
    path = Path(file).expanduser()
    image = read_array(path, "image")
    check_bytes(image, path)
    return image
