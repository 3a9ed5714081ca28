"""Fashion-MNIST, grey images of clothes."""

from pathlib import Path
from typing import Any

import torchvision.datasets

from lightning_robust.data.idx_files import read_idx
from lightning_robust.data.inspected_data_module import InspectedDataModule
from lightning_robust.data.torchvision_data_module import TorchvisionDataModule


class FashionMNIST(InspectedDataModule, TorchvisionDataModule):
    """Fashion-MNIST: 60,000 training and 10,000 test images of clothes in 10 classes, 1 x 28 x 28 in [0, 1].

    The files are `{train,t10k}-{images-idx3,labels-idx1}-ubyte`, as they are or packed (`.gz`), in
    `<root>/FashionMNIST/raw`, where torchvision puts them, or in `root` itself: Debian's package dataset-fashion-mnist
    has them in `/usr/share/datasets/fashion-mnist`.

    Args:
        root: the folder.
        kwargs: further arguments of `InspectedDataModule`, `TorchvisionDataModule` and `RobustDataModule`.

    Raises:
        OSError: as for `TorchvisionDataModule`.
        ValueError: as for `TorchvisionDataModule`.

    Paper: Xiao et al. 2017 (arXiv 1708.07747).
    """

    num_classes = 10
    layout = (
        "train-images-idx3-ubyte, train-labels-idx1-ubyte, and t10k- likewise (or packed, .gz), there or in "
        "FashionMNIST/raw/"
    )
    download_hint = TorchvisionDataModule.download_hint

    def __init__(self, root: str = "data", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that were published."""
        return ("train", "test")

    def read_class_names(self) -> list[str]:
        """Return the names of the classes."""
        return list(torchvision.datasets.FashionMNIST.classes)

    def files(self, split: str) -> dict[Path, str | None]:
        """Return the files of images and labels that are there, else those that torchvision would download."""
        part = "train" if split == "train" else "t10k"
        raw = self.root / "FashionMNIST" / "raw"
        found: dict[Path, str | None] = {}
        for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"):
            places = [raw / name, raw / f"{name}.gz", self.root / name, self.root / f"{name}.gz"]
            found[next((path for path in places if path.is_file()), places[0])] = None
        return found

    def source(self, split: str, download: bool = False) -> Any:
        """Return torchvision's dataset of the split."""
        return torchvision.datasets.FashionMNIST(self.root, train=split == "train", download=download)

    def read(self, split: str) -> tuple[Any, Any]:
        """Return images as bytes [n 28 28] and labels [n]."""
        for path in self.files(split):
            if not path.is_file():
                raise self.missing_error(path)
        image, label = map(read_idx, self.files(split))
        return image, label.astype(int)
