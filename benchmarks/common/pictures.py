"""Random images in the form of CIFAR's, where CIFAR itself is not at hand."""

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from lightning_robust.data import RobustDataModule
from lightning_robust.data.augmentation import CropAndFlip
from lightning_robust.data.images import Images


class Pictures(RobustDataModule):
    """Random images of CIFAR's shape, cropped and flipped as CIFAR's are.

    Args:
        count: how many.
        kwargs: further arguments of `RobustDataModule`.
    """

    num_classes = 10
    in_channels = 3
    image_size = (32, 32)

    def __init__(self, count: int = 2048, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = count

    def train_data(self, augment: bool) -> Dataset[Any]:
        """As bytes in memory."""
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (self.count, 32, 32, 3), dtype=np.uint8)
        return Images(image, rng.integers(0, 10, self.count), CropAndFlip(32) if augment else None)

    test_data = train_data  # type: ignore[assignment]
