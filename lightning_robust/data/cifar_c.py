"""CIFAR-10 and CIFAR-100 under common corruptions, from the published arrays."""

from pathlib import Path
from typing import Any

import numpy as np

from lightning_robust.data.arrays import check_classes, read_array
from lightning_robust.data.corruptions import CorruptedTestSet, Corruptions
from lightning_robust.data.images import Images


class CIFAR10C(CorruptedTestSet):
    """CIFAR-10-C: `<root>/<corruption>.npy`, bytes [50000 32 32 3] of five severities in turn, and `<root>/labels.npy`.

    Further corruptions of the files: speckle_noise, gaussian_blur, spatter, saturate.

    Args: see `CorruptedTestSet`.

    Paper: Hendrycks, Dietterich 2019 (arXiv 1903.12261); files: doi 10.5281/zenodo.2535967.
    """

    num_classes = 10

    def test_data(self) -> Corruptions:
        """The images of every corruption and severity, read from disk as they are needed."""
        labels, parts = self._array("labels"), {}
        check_classes(labels, self.num_classes, len(labels), self._path("labels"))
        for name in self.corruptions:
            images, n = self._array(name), len(labels) // 5
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
                raise ValueError(f"{self._path(name)} must hold bytes [n h w 3], got {images.dtype} {images.shape}.")
            if len(images) != len(labels) or len(labels) % 5:
                raise ValueError(
                    f"{self._path(name)} has {len(images)} images and labels.npy {len(labels)}: both must have five "
                    "severities of as many."
                )
            rows = {s: slice((s - 1) * n, s * n) for s in self.severities}
            parts.update({(name, s): Images(images[rows[s]], labels[rows[s]]) for s in self.severities})
        return Corruptions(parts)

    def _path(self, name: str) -> Path:
        return self.root / f"{name}.npy"

    def _array(self, name: str) -> Any:
        path = self._path(name)
        if not path.is_file():
            raise self._missing(path)
        return read_array(path)


class CIFAR100C(CIFAR10C):
    """CIFAR-100-C, in the form of `CIFAR10C`.

    Args: see `CorruptedTestSet`.

    Paper: Hendrycks, Dietterich 2019 (arXiv 1903.12261); files: doi 10.5281/zenodo.3555552.
    """

    num_classes = 100
