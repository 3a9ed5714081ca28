"""MNIST, grey images of handwritten digits."""

from pathlib import Path
from typing import Any

import torchvision.datasets

from lightning_robust.data.torchvision_data_module import TorchvisionDataModule


class MNIST(TorchvisionDataModule):
    """MNIST: 60,000 training and 10,000 test images of handwritten digits, 1 x 28 x 28 in [0, 1], not augmented.

    The files are `<root>/MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte`.

    Args: those of `TorchvisionDataModule`.

    Raises:
        OSError: as for `TorchvisionDataModule`.
        ValueError: as for `TorchvisionDataModule`.

    Reference: LeCun et al., "Gradient-based learning applied to document recognition" (Proc. IEEE, 1998), as read by
    torchvision.
    """

    num_classes = 10
    in_channels = 1
    image_size = (28, 28)
    layout = "MNIST/raw/ with train-images-idx3-ubyte, train-labels-idx1-ubyte, and t10k- likewise"

    def files(self, split: str) -> dict[Path, str | None]:
        """Return the files of images and labels; checksums are only known of the packed files."""
        part = "train" if split == "train" else "t10k"
        return {self.root / "MNIST" / "raw" / f"{part}-{kind}-ubyte": None for kind in ("images-idx3", "labels-idx1")}

    def source(self, split: str, download: bool = False) -> Any:
        """Return torchvision's dataset of the split."""
        return torchvision.datasets.MNIST(self.root, train=split == "train", download=download)

    def read(self, split: str) -> tuple[Any, Any]:
        """Return images as bytes [n 28 28] and labels [n]."""
        source = self.load(split)
        return source.data.numpy(), source.targets.numpy()
