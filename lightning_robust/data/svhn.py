"""SVHN, photographed digits of street view house numbers."""

from pathlib import Path
from typing import Any

import torchvision.datasets
from torch.utils.data import ConcatDataset, Dataset

from lightning_robust.data.torchvision_data_module import TorchvisionDataModule


class SVHN(TorchvisionDataModule):
    """SVHN: 73,257 training and 26,032 test photographs of digits, 3 x 32 x 32 in [0, 1], not augmented.

    Args:
        root: folder with `train_32x32.mat` and `test_32x32.mat`.
        extra: whether to train on the 531,131 easier images of `extra_32x32.mat`, too.
        kwargs: further arguments of `TorchvisionDataModule` and `RobustDataModule`.

    Raises:
        OSError: as for `TorchvisionDataModule`.
        ValueError: as for `TorchvisionDataModule`.

    Reference: Netzer et al., "Reading digits in natural images with unsupervised feature learning" (NIPS workshop,
    2011), as read by torchvision: the label of a zero is 0, where the files have 10.
    """

    num_classes = 10
    in_channels = 3
    image_size = (32, 32)
    layout = "train_32x32.mat and test_32x32.mat (and extra_32x32.mat, if `extra` is set)"

    def __init__(self, root: str = "data", extra: bool = False, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.extra = extra

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits to download."""
        return ("train", "test", "extra") if self.extra else ("train", "test")

    def train_data(self, augment: bool) -> Dataset[Any]:
        """Return the training set, followed by the extra one if `extra` is set."""
        train = self.images("train", augment)
        return ConcatDataset([train, self.images("extra", augment)]) if self.extra else train

    def files(self, split: str) -> dict[Path, str | None]:
        """Return the split's file and its MD5."""
        _, name, md5 = torchvision.datasets.SVHN.split_list[split]
        return {self.root / name: md5}

    def source(self, split: str, download: bool = False) -> Any:
        """Return torchvision's dataset of the split."""
        return torchvision.datasets.SVHN(self.root, split, download=download)

    def read(self, split: str) -> tuple[Any, Any]:
        """Return images as bytes [n 32 32 3] and labels [n]."""
        source = self.load(split)
        return source.data.transpose(0, 2, 3, 1), source.labels
