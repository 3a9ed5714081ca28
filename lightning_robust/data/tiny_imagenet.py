"""Tiny ImageNet: 200 classes of ImageNet, scaled down."""

from collections.abc import Callable
from typing import Any

from lightning_robust.data.augmentation import CropAndFlip, Padding
from lightning_robust.data.folder_data_module import FolderDataModule
from lightning_robust.data.images import ImageFiles


class TinyImageNet(FolderDataModule):
    """100,000 images of 200 classes to train, 10,000 to test: 3 x 64 x 64 in [0, 1], cropped and flipped to train.

    The published validation images are the test set: the labels of the test images were never published. Classes are
    numbered in the order of their WordNet ids, as by torchvision's `ImageFolder`.

    Args:
        root: the folder that holds `tiny-imagenet-200`.
        padding: pixels added on each side before a random window of 64 x 64 is taken.
        padding_mode: "constant" (zeros) or "reflect".
        kwargs: see `RobustDataModule`.

    Raises:
        ValueError: in `setup`, for files that are missing or do not fit together.

    Reference: Stanford's course CS231n (2015), cs231n.stanford.edu/tiny-imagenet-200.zip.
    """

    num_classes = 200
    layout = (
        "tiny-imagenet-200/ with wnids.txt, train/<wnid>/images/<file>.JPEG, val/images/<file>.JPEG and "
        "val/val_annotations.txt"
    )
    remedy = "Unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip there."

    def __init__(self, root: str = "data", padding: int = 4, padding_mode: Padding = "constant", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.folder = self.root / "tiny-imagenet-200"
        self.padding, self.padding_mode = padding, padding_mode

    def transform(self, augment: bool) -> Callable[[Any], Any] | None:
        """A random crop and flip to train."""
        return CropAndFlip(64, self.padding, self.padding_mode) if augment else None

    def read(self, split: str) -> tuple[Any, Any]:
        """Files, decoded as they are needed, and labels."""
        wnids = sorted(self._lines("wnids.txt"))
        if len(set(wnids)) != self.num_classes:
            raise ValueError(f"{self.folder / 'wnids.txt'} lists {len(set(wnids))} classes, not {self.num_classes}.")
        found = self._training(wnids) if split == "train" else self._annotated(wnids)
        names, label = zip(*found, strict=True) if found else ((), ())
        return ImageFiles(self.folder, names), label

    def _training(self, wnids: list[str]) -> list[tuple[str, int]]:
        return [(name, k) for k, wnid in enumerate(wnids) for name in self._names(f"train/{wnid}/images")]

    def _annotated(self, wnids: list[str]) -> list[tuple[str, int]]:
        there, rows = set(self._names("val/images")), self._lines("val/val_annotations.txt")
        listed = [(f"val/images/{name}", wnid) for name, wnid, *_ in (f"{row} - -".split() for row in rows)]
        if sorted(there) != sorted(name for name, _ in listed) or not {wnid for _, wnid in listed} <= set(wnids):
            raise ValueError(
                f"{self.folder / 'val'} has {len(there)} images, and val_annotations.txt lists {len(listed)}: they "
                f"must be the same ones, each once and of a class of wnids.txt. {self.remedy}"
            )
        number = {wnid: k for k, wnid in enumerate(wnids)}
        return [(name, number[wnid]) for name, wnid in listed]

    def _names(self, below: str) -> list[str]:
        folder = self.folder / below
        names = sorted(path.name for path in folder.glob("*.JPEG"))
        if not names:
            raise self.missing(folder / "*.JPEG")
        return [f"{below}/{name}" for name in names]

    def _lines(self, below: str) -> list[str]:
        path = self.folder / below
        if not path.is_file():
            raise self.missing(path)
        return [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
