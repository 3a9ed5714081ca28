"""Tiny ImageNet, 200 classes of ImageNet scaled down to 64 x 64 pixels."""

from collections.abc import Callable
from typing import Any

from lightning_robust.data.augmentation import CropAndFlip, Padding
from lightning_robust.data.folder_data_module import FolderDataModule
from lightning_robust.data.image_files import ImageFiles


class TinyImageNet(FolderDataModule):
    """Tiny ImageNet: 100,000 training and 10,000 test images of 200 classes, 3 x 64 x 64 in [0, 1].

    Training images are padded, cropped at random and flipped with probability 1/2. The published validation images are
    the test set, because the labels of the test images were never published. Classes are numbered in the order of their
    WordNet ids, as by torchvision's `ImageFolder`.

    Args:
        root: folder that holds `tiny-imagenet-200`.
        padding: pixels added on each side before the random crop of 64 x 64.
        padding_mode: "constant" (zeros) or "reflect".
        kwargs: further arguments of `RobustDataModule`.

    Raises:
        ValueError: in `setup`, for files that are missing or contradict each other.

    Reference: Stanford's course CS231n (2015), cs231n.stanford.edu/tiny-imagenet-200.zip.
    """

    num_classes = 200
    in_channels = 3
    image_size = (64, 64)
    layout = (
        "tiny-imagenet-200/ with wnids.txt, train/<wnid>/images/<file>.JPEG, val/images/<file>.JPEG and "
        "val/val_annotations.txt"
    )
    download_hint = "Unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip there."

    def __init__(self, root: str = "data", padding: int = 4, padding_mode: Padding = "constant", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.folder = self.root / "tiny-imagenet-200"
        self.padding = padding
        self.padding_mode = padding_mode

    def transform(self, augment: bool) -> Callable[[Any], Any] | None:
        """Return a random crop and flip for training, and None for evaluation."""
        return CropAndFlip(64, self.padding, self.padding_mode) if augment else None

    def read(self, split: str) -> tuple[Any, Any]:
        """Return the image files, decoded as they are needed, and labels [n]."""
        wnids = sorted(self._lines("wnids.txt"))
        if len(set(wnids)) != self.num_classes:
            raise ValueError(f"{self.folder / 'wnids.txt'} lists {len(set(wnids))} classes, not {self.num_classes}.")
        samples = self._train_samples(wnids) if split == "train" else self._val_samples(wnids)
        names, labels = zip(*samples, strict=True) if samples else ((), ())
        return ImageFiles(self.folder, names), labels

    def _train_samples(self, wnids: list[str]) -> list[tuple[str, int]]:
        return [(name, k) for k, wnid in enumerate(wnids) for name in self._image_names(f"train/{wnid}/images")]

    def _val_samples(self, wnids: list[str]) -> list[tuple[str, int]]:
        found = self._image_names("val/images")
        rows = self._lines("val/val_annotations.txt")
        # each row begins with the file name and the WordNet id; dashes stand in for what a damaged row lacks
        listed = [(f"val/images/{name}", wnid) for name, wnid, *_ in (f"{row} - -".split() for row in rows)]
        if sorted(found) != sorted(name for name, _ in listed) or not {wnid for _, wnid in listed} <= set(wnids):
            raise ValueError(
                f"{self.folder / 'val'} has {len(found)} images, and val_annotations.txt lists {len(listed)}: they "
                f"must be the same ones, each once and of a class of wnids.txt. {self.download_hint}"
            )
        number = {wnid: k for k, wnid in enumerate(wnids)}
        return [(name, number[wnid]) for name, wnid in listed]

    def _image_names(self, subfolder: str) -> list[str]:
        folder = self.folder / subfolder
        names = sorted(path.name for path in folder.glob("*.JPEG"))
        if not names:
            raise self.missing_error(folder / "*.JPEG")
        return [f"{subfolder}/{name}" for name in names]

    def _lines(self, file: str) -> list[str]:
        path = self.folder / file
        if not path.is_file():
            raise self.missing_error(path)
        return [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
