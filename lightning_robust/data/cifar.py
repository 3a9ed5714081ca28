"""CIFAR-10 and CIFAR-100, small photographs of objects."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torchvision.datasets

from lightning_robust.data.augmentation import CropAndFlip, Padding
from lightning_robust.data.torchvision_data_module import TorchvisionDataModule


class CIFAR10(TorchvisionDataModule):
    """50,000 photographs of 10 classes to train, 10,000 to test: 3 x 32 x 32 in [0, 1], cropped and flipped to train.

    Args:
        root: the folder that holds `cifar-10-batches-py`.
        padding: pixels added on each side before a random window of 32 x 32 is taken.
        padding_mode: "constant" (zeros) or "reflect".
        kwargs: see `Downloadable`.

    Raises: see `Downloadable`.

    Reference: Krizhevsky, "Learning multiple layers of features from tiny images" (2009), as read by torchvision; the
    augmentation is that of He et al. 2015 (arXiv 1512.03385).
    """

    num_classes = 10
    layout = "cifar-10-batches-py/ with data_batch_1 to data_batch_5, test_batch and batches.meta"
    kind: Any = torchvision.datasets.CIFAR10

    def __init__(self, root: str = "data", padding: int = 4, padding_mode: Padding = "constant", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.padding, self.padding_mode = padding, padding_mode

    def transform(self, augment: bool) -> Callable[[Any], Any] | None:
        """A random crop and flip to train."""
        return CropAndFlip(32, self.padding, self.padding_mode) if augment else None

    def files(self, split: str) -> dict[Path, str | None]:
        """All of them: torchvision reads no split without the other."""
        meta = (self.kind.meta["filename"], self.kind.meta["md5"])
        listed = [*self.kind.train_list, *self.kind.test_list, meta]
        return {self.root / self.kind.base_folder / name: md5 for name, md5 in listed}

    def source(self, split: str, download: bool = False) -> Any:
        """torchvision's dataset."""
        return self.kind(self.root, train=split == "train", download=download)

    def read(self, split: str) -> tuple[Any, Any]:
        """Bytes [n 32 32 3] and labels."""
        source = self.load(split)
        return source.data, source.targets


class CIFAR100(CIFAR10):
    """50,000 photographs of 100 classes to train, 10,000 to test, as `CIFAR10` otherwise.

    Args: see `CIFAR10`; the root holds `cifar-100-python`.

    Raises: see `Downloadable`.

    Reference: see `CIFAR10`.
    """

    num_classes = 100
    layout = "cifar-100-python/ with train, test and meta"
    kind = torchvision.datasets.CIFAR100
