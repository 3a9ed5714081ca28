"""CIFAR-10 and CIFAR-100, small photographs of objects."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torchvision.datasets

from lightning_robust.data.augmentation import CropAndFlip, Padding
from lightning_robust.data.torchvision_data_module import TorchvisionDataModule


class CIFAR10(TorchvisionDataModule):
    """CIFAR-10: 50,000 training and 10,000 test photographs of 10 classes, 3 x 32 x 32 in [0, 1].

    Training images are padded, cropped at random and flipped with probability 1/2.

    Args:
        root: folder that holds `cifar-10-batches-py`.
        padding: pixels added on each side before the random crop of 32 x 32.
        padding_mode: "constant" (zeros) or "reflect".
        kwargs: further arguments of `TorchvisionDataModule` and `RobustDataModule`.

    Raises:
        OSError: as for `TorchvisionDataModule`.
        ValueError: as for `TorchvisionDataModule`.

    Reference: Krizhevsky, "Learning multiple layers of features from tiny images" (2009), as read by torchvision; the
    augmentation is that of He et al. 2015 (arXiv 1512.03385).
    """

    num_classes = 10
    in_channels = 3
    image_size = (32, 32)
    layout = "cifar-10-batches-py/ with data_batch_1 to data_batch_5, test_batch and batches.meta"
    kind: Any = torchvision.datasets.CIFAR10

    def __init__(self, root: str = "data", padding: int = 4, padding_mode: Padding = "constant", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.padding = padding
        self.padding_mode = padding_mode

    def transform(self, augment: bool) -> Callable[[Any], Any] | None:
        """Return a random crop and flip for training, and None for evaluation."""
        return CropAndFlip(32, self.padding, self.padding_mode) if augment else None

    def files(self, split: str) -> dict[Path, str | None]:
        """Return the files of both splits, because torchvision reads neither without the other."""
        meta = (self.kind.meta["filename"], self.kind.meta["md5"])
        listed = [*self.kind.train_list, *self.kind.test_list, meta]
        return {self.root / self.kind.base_folder / name: md5 for name, md5 in listed}

    def source(self, split: str, download: bool = False) -> Any:
        """Return torchvision's dataset of the split."""
        return self.kind(self.root, train=split == "train", download=download)

    def read(self, split: str) -> tuple[Any, Any]:
        """Return images as bytes [n 32 32 3] and labels [n]."""
        source = self.load(split)
        self.class_names = list(source.classes)
        return source.data, source.targets


class CIFAR100(CIFAR10):
    """CIFAR-100: 50,000 training and 10,000 test photographs of 100 classes, otherwise as `CIFAR10`.

    Args:
        root: folder that holds `cifar-100-python`.
        padding: pixels added on each side before the random crop of 32 x 32.
        padding_mode: "constant" (zeros) or "reflect".
        kwargs: further arguments of `TorchvisionDataModule` and `RobustDataModule`.

    Raises:
        OSError: as for `TorchvisionDataModule`.
        ValueError: as for `TorchvisionDataModule`.

    Reference: as for `CIFAR10`.
    """

    num_classes = 100
    layout = "cifar-100-python/ with train, test and meta"
    kind = torchvision.datasets.CIFAR100
