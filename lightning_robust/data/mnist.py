"""MNIST, handwritten digits."""

from pathlib import Path
from typing import Any

import torchvision.datasets

from lightning_robust.data.torchvision_data_module import TorchvisionDataModule


class MNIST(TorchvisionDataModule):
    """60,000 handwritten digits to train, 10,000 to test: 1 x 28 x 28 in [0, 1], without augmentation.

    Args: see `Downloadable`. The files are `<root>/MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte`.

    Raises: see `Downloadable`.

    Reference: LeCun et al., "Gradient-based learning applied to document recognition" (Proc. IEEE, 1998), as read by
    torchvision.
    """

    num_classes = 10
    layout = "MNIST/raw/ with train-images-idx3-ubyte, train-labels-idx1-ubyte, and t10k- likewise"

    def files(self, split: str) -> dict[Path, str | None]:
        """Images and labels; checksums are known of the packed files alone."""
        part = "train" if split == "train" else "t10k"
        return {self.root / "MNIST" / "raw" / f"{part}-{kind}-ubyte": None for kind in ("images-idx3", "labels-idx1")}

    def source(self, split: str, download: bool = False) -> Any:
        """torchvision's dataset."""
        return torchvision.datasets.MNIST(self.root, train=split == "train", download=download)

    def read(self, split: str) -> tuple[Any, Any]:
        """Bytes [n 28 28] and labels."""
        source = self.load(split)
        return source.data.numpy(), source.targets.numpy()
