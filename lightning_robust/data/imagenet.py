"""ImageNet: 1,000 classes of photographs."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torchvision.datasets
from torchvision.datasets.imagenet import ARCHIVE_META, META_FILE, load_meta_file

from lightning_robust.data.augmentation import central_crop, resized_crop_and_flip
from lightning_robust.data.folder_data_module import FolderDataModule
from lightning_robust.data.images import ImageFiles, class_files
from lightning_robust.utils.messages import first_line


class ImageNet(FolderDataModule):
    """1,281,167 photographs of 1,000 classes to train; the 50,000 published for validation are the test set.

    Read from folders of classes, `<root>/train/<class>/<file>` and `<root>/val/<class>/<file>`, numbered in the order
    of their names. Where one of the two is not there but its archive is (`ILSVRC2012_img_train.tar`,
    `ILSVRC2012_img_val.tar`, each with `ILSVRC2012_devkit_t12.tar.gz` or the `meta.bin` that torchvision makes of it),
    torchvision checks and unpacks it, in one process on each node.

    Images are 3 x size x size in [0, 1]. To train, a random part of each is resized, and flipped every other time; to
    evaluate, the shorter side is resized, and the central part taken.

    Args:
        root: the folder.
        size: pixels of the images on each side.
        resize: pixels of the shorter side before the central part is taken.
        num_classes: how many folders of classes there are: fewer for subsets such as ImageNet-100.
        val_size: how many training samples are held out for validation.
        kwargs: see `RobustDataModule`.

    Raises:
        ValueError: for `resize` below `size`; in `prepare_data`, for archives that are not the published ones; in
            `setup`, for files that are missing or not laid out so.

    Paper: Russakovsky et al. 2014 (arXiv 1409.0575); sizes and augmentation: He et al. 2015 (arXiv 1512.03385).
    """

    num_classes = 1000
    layout = "train/<class>/<image> and val/<class>/<image> (or ImageNet's archives with its devkit)"
    remedy = "Get the archives from https://image-net.org/download.php; they are unpacked when they lie there."

    def __init__(
        self,
        root: str = "data/imagenet",
        size: int = 224,
        resize: int = 256,
        num_classes: int = 1000,
        val_size: int = 5000,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, val_size=val_size, **kwargs)
        if resize < size:
            raise ValueError(f"Of images resized to {resize} pixels, no {size} can be taken: raise `resize`.")
        self.size, self.resize, self.num_classes = size, resize, num_classes

    def prepare_data(self) -> None:
        """Unpack the archives of what is not there yet."""
        if any(self._packed(split) for split in ("train", "val")):
            with self.alone():
                for split in filter(self._packed, ("train", "val")):
                    self._unpack(split)

    def _packed(self, split: str) -> bool:
        return not (self.root / split).is_dir() and (self.root / ARCHIVE_META[split][0]).is_file()

    def _unpack(self, split: str) -> None:
        """In a folder beside, so that what is there is always whole."""
        meta, beside = self.root / META_FILE, self.root / ".unpacking"
        try:
            if meta.is_file():
                load_meta_file(str(self.root))
        except Exception as error:  # what is damaged makes the reader fail in any way
            raise ValueError(
                f"{meta} is damaged ({first_line(error)}) Delete it; the devkit has what it holds."
            ) from error
        shutil.rmtree(beside, ignore_errors=True)  # of one that was killed
        beside.mkdir()
        try:
            for name in (ARCHIVE_META[split][0], ARCHIVE_META["devkit"][0], META_FILE):
                if (self.root / name).is_file():
                    (beside / name).symlink_to((self.root / name).resolve())
            torchvision.datasets.ImageNet(beside, split)
            if not meta.is_file():
                (beside / META_FILE).rename(meta)
            (beside / split).rename(self.root / split)
        except Exception as error:  # of the archives, the disk
            raise ValueError(
                f"ImageNet's archives in {str(self.root)!r} were not unpacked ({first_line(error)}) They must be the "
                "published ones, and there must be room for the images."
            ) from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def transform(self, augment: bool) -> Callable[[Any], Any]:
        """A random part to train, the central one to evaluate."""
        return resized_crop_and_flip(self.size) if augment else central_crop(self.resize, self.size)

    def read(self, split: str) -> tuple[Any, Any]:
        """Files, decoded as they are needed, and labels."""
        folder = self.root / {"test": "val"}.get(split, split)
        classes = self._classes(folder)
        other = {self._folders(self.root / name) for name in ("train", "val") if (self.root / name).is_dir()}
        if len(classes) != self.num_classes or len(other) != 1:
            raise ValueError(
                f"{folder} has {len(classes)} folders of classes: there must be `num_classes` of them, "
                f"{self.num_classes}, and train and val must have the same."
            )
        names, labels = class_files(folder)
        return ImageFiles(folder, names), labels

    def _classes(self, folder: Path) -> tuple[str, ...]:
        if not folder.is_dir():
            raise self.missing(folder)
        stray = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in (".tar", ".jpeg", ".jpg", ".png"))
        if stray:
            raise ValueError(
                f"{folder} itself holds {stray[0]}: images belong into folders of classes. If an archive was unpacked "
                f"in part, remove {folder}, and it is unpacked anew."
            )
        return self._folders(folder)

    @staticmethod
    def _folders(folder: Path) -> tuple[str, ...]:
        return tuple(sorted(p.name for p in folder.iterdir() if p.is_dir()))
