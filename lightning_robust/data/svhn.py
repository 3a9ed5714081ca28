"""SVHN, street view house numbers."""

from pathlib import Path
from typing import Any

import torchvision.datasets
from torch.utils.data import ConcatDataset, Dataset

from lightning_robust.data.torchvision_data_module import TorchvisionDataModule


class SVHN(TorchvisionDataModule):
    """73,257 photographed digits to train, 26,032 to test: 3 x 32 x 32 in [0, 1], without augmentation.

    Args:
        root: the folder with `train_32x32.mat` and `test_32x32.mat`.
        extra: whether to train on the 531,131 easier images of `extra_32x32.mat`, too.
        kwargs: see `Downloadable`.

    Raises: see `Downloadable`.

    Reference: Netzer et al., "Reading digits in natural images with unsupervised feature learning" (NIPS workshop,
    2011), as read by torchvision: the label of a zero is 0, where the files have 10.
    """

    num_classes = 10
    layout = "train_32x32.mat and test_32x32.mat (and extra_32x32.mat, if `extra` is set)"

    def __init__(self, root: str = "data", extra: bool = False, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.extra = extra

    @property
    def splits(self) -> tuple[str, ...]:
        """What to download."""
        return ("train", "test", "extra") if self.extra else ("train", "test")

    def train_data(self, augment: bool) -> Dataset[Any]:
        """The training set, then the extra one if asked for."""
        train = self.images("train", augment)
        return ConcatDataset([train, self.images("extra", augment)]) if self.extra else train

    def files(self, split: str) -> dict[Path, str | None]:
        """One."""
        _, name, md5 = torchvision.datasets.SVHN.split_list[split]
        return {self.root / name: md5}

    def source(self, split: str, download: bool = False) -> Any:
        """torchvision's dataset."""
        return torchvision.datasets.SVHN(self.root, split, download=download)

    def read(self, split: str) -> tuple[Any, Any]:
        """Bytes [n 32 32 3] and labels."""
        source = self.load(split)
        return source.data.transpose(0, 2, 3, 1), source.labels
