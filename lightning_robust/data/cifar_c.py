"""CIFAR-10 and CIFAR-100 under common corruptions, from the published arrays."""

from pathlib import Path
from typing import Any

import numpy as np

from lightning_robust.data.arrays import check_classes, read_array
from lightning_robust.data.corruption_data_module import CorruptionDataModule
from lightning_robust.data.corruption_suite import CorruptionSuite
from lightning_robust.data.images import Images


class CIFAR10C(CorruptionDataModule):
    """CIFAR-10-C: the test images of CIFAR-10 under common corruptions of five severities.

    The folder holds `<corruption>.npy`, bytes [50000 32 32 3] of the five severities one after the other, and
    `labels.npy`. The files have four more corruptions: speckle_noise, gaussian_blur, spatter, saturate.

    Args: those of `CorruptionDataModule`.

    Paper: Hendrycks, Dietterich 2019 (arXiv 1903.12261); files: doi 10.5281/zenodo.2535967.
    """

    num_classes = 10
    image_size = (32, 32)

    def test_data(self) -> CorruptionSuite:
        """Return the images of every corruption and severity, read from disk as they are needed."""
        labels = self._array("labels")
        check_classes(labels, self.num_classes, len(labels), self._path("labels"))
        n = len(labels) // 5
        parts = {}
        for name in self.corruptions:
            images = self._array(name)
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
                raise ValueError(f"{self._path(name)} must hold bytes [n h w 3], got {images.dtype} {images.shape}.")
            if len(images) != len(labels) or len(labels) % 5:
                raise ValueError(
                    f"{self._path(name)} has {len(images)} images and labels.npy {len(labels)}: both must have five "
                    "severities of as many."
                )
            for severity in self.severities:
                rows = slice((severity - 1) * n, severity * n)
                parts[name, severity] = Images(images[rows], labels[rows])
        return CorruptionSuite(parts)

    def _path(self, name: str) -> Path:
        return self.root / f"{name}.npy"

    def _array(self, name: str) -> Any:
        path = self._path(name)
        if not path.is_file():
            raise self.missing_error(path)
        return read_array(path)


class CIFAR100C(CIFAR10C):
    """CIFAR-100-C: the test images of CIFAR-100 under common corruptions, in files like those of `CIFAR10C`.

    Args: those of `CorruptionDataModule`.

    Paper: Hendrycks, Dietterich 2019 (arXiv 1903.12261); files: doi 10.5281/zenodo.3555552.
    """

    num_classes = 100
