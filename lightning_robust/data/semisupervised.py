"""Training batches that mix labelled and pseudo-labelled samples, for any loss."""

from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from lightning_robust.data.alike_labels import IntLabels, SoftLabels
from lightning_robust.data.arrays import check_bytes
from lightning_robust.data.data_around import DataAround
from lightning_robust.data.data_module import RobustDataModule
from lightning_robust.data.epoch_sampler import EpochSampler
from lightning_robust.data.images import Images
from lightning_robust.data.indexed_dataset import Indexed
from lightning_robust.data.mixed_sampler import MixedSampler
from lightning_robust.data.shard_files import image_sources, label_sources, labels_beside
from lightning_robust.data.shards import Shards, check_beside, pseudo_labels
from lightning_robust.data.splits import Part


class SemiSupervised(DataAround):
    """Data module of robust self-training: each batch mixes samples of a labelled dataset with pseudo-labelled ones.

    Validation and test samples are the labelled dataset's. If either labels are probabilities, all become so.

    Files are `.npz` archives of plain arrays: "image", bytes [n h w] or [n h w c], and "label", class numbers [n] or
    probabilities [n k], as the generated datasets of the literature have them; or `.npy` files, `x_image.npy` with
    `x_label.npy`. Images are read as they are needed, so that there may be more than fit into memory; only compressed
    archives (`numpy.savez_compressed`) are read as a whole.

    One command makes labels for unlabelled images from a checkpoint: `lightning-robust predict --config <this>
    --ckpt_path <net> --trainer.callbacks+=PseudoLabels --trainer.callbacks.path=labels.npz`. The config's model must be
    the checkpoint's: if the labels are for another method, add `--model Standard --model.net SmallConvNet`, say.

    Args:
        labelled: the labelled dataset's data module; its own batch and loading settings are not used.
        images: file, folder of files or pattern such as `edm/*_image.npy`, or a list of these; by default the
            unlabelled images that the labelled dataset has of its own.
        labels: files of the labels, in the order of `images`, such as `.npz` archives with "label"; by default
            the labels beside the images.
        fraction: share of pseudo-labelled samples in each batch, in (0, 1]. With 1, labelled samples are held out for
            validation alone.
        batch_size: training samples of a step on each device, both kinds together.
        epoch_size: samples of an epoch, rounded up to whole batches; by default as many as there are labelled ones.
        kwargs: further arguments of `RobustDataModule`.

    Raises:
        ValueError: for a `fraction` out of range, an `epoch_size` below 1, or `mixing` or `resolution` of the labelled
            dataset alone; in `setup`, for arrays that are missing or have another form, or images of another size than
            the labelled ones.

    Example:
        >>> from lightning_robust.data import Digits
        >>> data = SemiSupervised(Digits(unlabelled=600), fraction=0.5, batch_size=64, val_size=150, seed=0)
        >>> data.setup("fit")
        >>> x, y, index = next(iter(data.train_dataloader()))
        >>> (index >= 1347 - 600 - 150).sum()  # pseudo-labelled samples come after the labelled ones
        tensor(32)

    Paper: Carmon et al. 2019 (arXiv 1905.13736), robust self-training; Wang et al. 2023 (arXiv 2302.04638), generated
    images.
    Reference: yaircarmon/semisup-adv@3f05b28 (batch 256, fraction 0.5); wzekai99/DM-Improves-AT@b390f25 (batch 512,
    fraction 0.7, epoch_size 50000).
    Deviates: see `MixedSampler`.
    """

    def __init__(
        self,
        labelled: RobustDataModule,
        images: str | list[str] | None = None,
        labels: str | list[str] | None = None,
        fraction: float = 0.5,
        batch_size: int = 256,
        epoch_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(labelled, batch_size=batch_size, **kwargs)
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction, the share of pseudo-labelled samples, must be in (0, 1], got {fraction}.")
        if epoch_size is not None and epoch_size < 1:
            raise ValueError(f"An epoch needs at least 1 sample, got epoch_size {epoch_size}.")
        for name in ("mixing", "resolution"):
            if getattr(labelled, name) is not None:
                raise ValueError(f"Both kinds of samples are trained on alike: give {name} to SemiSupervised itself.")
        self.labelled = labelled
        self.images = images
        self.labels = labels
        self.fraction = fraction
        self.epoch_size = epoch_size

    def pseudo_labelled(self, labelled: Dataset[Any]) -> Dataset[Any]:
        """Return the images with pseudo-labels.

        Args:
            labelled: the labelled training samples without the held-out ones, which must not influence the labels.
        """
        if self.images is None:
            return self.labelled.unlabelled_data(labelled)
        image = _read_images(self.images)
        label = Shards(label_sources(self.labels) if self.labels else labels_beside(image.sources))
        if not self.labels and len(image.parts) > 1:
            check_beside(image, label)
        return Images(image, pseudo_labels(label, self.num_classes, len(image)), self.labelled.transform(augment=True))

    def train_samples(self, labelled: Part) -> Dataset[Any]:
        """Return the labelled samples, followed by the pseudo-labelled ones."""
        self.num_labelled = len(labelled)
        both = (labelled, self.pseudo_labelled(labelled))
        # seeded, so that looking at samples draws no random number of the training
        ours, theirs = ([list(Indexed(part)[0, 0].x.shape)] if len(part) else [] for part in both)  # type: ignore[arg-type]
        if ours and theirs and ours != theirs:
            raise ValueError(
                f"The pseudo-labelled images are {theirs[0]}, where the labelled ones are {ours[0]}: files hold images "
                "[n h w c] of the same height, width and channels."
            )
        if isinstance(both[1], Images) and isinstance(both[1].label, Shards):
            return ConcatDataset([SoftLabels(part, self.num_classes) for part in both])
        return ConcatDataset([IntLabels(part) for part in both])

    def setup(self, stage: str | None = None) -> None:
        """Split the labelled dataset as any other; for "predict", read the unlabelled images."""
        super().setup(stage)
        if stage == "predict" and self.images is not None:
            image = _read_images(self.images)
            unknown = np.full(len(image), -1)
            self.predict_set = Indexed(Images(image, unknown, self.labelled.transform(augment=False)))

    def train_sampler(self, seed: int, world_size: int, rank: int) -> EpochSampler:
        """Return the sampler of mixed batches."""
        return MixedSampler(
            self.train_set,
            self.num_labelled,
            self.fraction,
            self.batch_size,
            seed,
            world_size,
            rank,
            self.epoch_size,
        )

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return a loader over the file's unlabelled images.

        Raises:
            ValueError: if there is no file.
        """
        if self.images is None:
            raise ValueError("There is no file of unlabelled images to predict: set SemiSupervised's `images`.")
        return self._eval_loader(self.predict_set)


def _read_images(given: str | list[str]) -> Shards:
    image = Shards(image_sources(given))
    check_bytes(image.parts[0], image.sources[0][0])  # all others have the same form
    return image
