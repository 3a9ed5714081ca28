"""ImageNet, photographs of 1,000 classes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torchvision.datasets
from torchvision.datasets.imagenet import ARCHIVE_META, META_FILE, load_meta_file

from lightning_robust.data.augmentation import central_crop, resized_crop_and_flip
from lightning_robust.data.folder_data_module import FolderDataModule
from lightning_robust.data.image_files import ImageFiles, class_files
from lightning_robust.utils.messages import describe_error


class ImageNet(FolderDataModule):
    """ImageNet: 1,281,167 training photographs of 1,000 classes; the 50,000 validation images are the test set.

    Images are read from class folders, `<root>/train/<class>/<file>` and `<root>/val/<class>/<file>`; classes are
    numbered in the order of the folders' names. If one of the two folders is missing but its archive is there
    (`ILSVRC2012_img_train.tar`, `ILSVRC2012_img_val.tar`, each with `ILSVRC2012_devkit_t12.tar.gz` or the `meta.bin`
    that torchvision makes of it), torchvision checks and unpacks it, in one process on each node.

    Images are 3 x size x size in [0, 1]. For training, a random part of each image is resized, and flipped with
    probability 1/2. For evaluation, the shorter side is resized and the centre cropped.

    Args:
        root: the folder.
        size: height and width of the images in pixels.
        resize: pixels that the shorter side is resized to before the centre is cropped.
        num_classes: number of class folders: fewer for subsets such as ImageNet-100.
        val_size: number of training samples held out for validation.
        kwargs: further arguments of `RobustDataModule`.

    Raises:
        ValueError: for `resize` below `size`; in `prepare_data`, for archives that are not the published ones; in
            `setup`, for files that are missing or laid out differently.

    Paper: Russakovsky et al. 2014 (arXiv 1409.0575); sizes and augmentation: He et al. 2015 (arXiv 1512.03385).
    """

    num_classes = 1000
    in_channels = 3
    layout = "train/<class>/<image> and val/<class>/<image> (or ImageNet's archives with its devkit)"
    download_hint = "Get the archives from https://image-net.org/download.php; they are unpacked when they lie there."

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
        self.size = size
        self.resize = resize
        self.num_classes = num_classes

    def prepare_data(self) -> None:
        """Unpack the archives whose folders are missing."""
        if any(self._is_packed(split) for split in ("train", "val")):
            with self.locked_root():
                for split in filter(self._is_packed, ("train", "val")):
                    self._unpack(split)

    def _is_packed(self, split: str) -> bool:
        return not (self.root / split).is_dir() and (self.root / ARCHIVE_META[split][0]).is_file()

    def _unpack(self, split: str) -> None:
        """Unpack a split in a temporary folder first, so that a folder in its final place is always complete."""
        meta = self.root / META_FILE
        temporary = self.root / ".unpacking"
        try:
            if meta.is_file():
                load_meta_file(str(self.root))
        except Exception as error:  # torchvision's reader raises many kinds for a damaged file
            raise ValueError(
                f"{meta} is damaged ({describe_error(error)}) Delete it; the devkit has what it holds."
            ) from error
        shutil.rmtree(temporary, ignore_errors=True)  # a killed process may have left it
        temporary.mkdir()
        try:
            for name in (ARCHIVE_META[split][0], ARCHIVE_META["devkit"][0], META_FILE):
                if (self.root / name).is_file():
                    (temporary / name).symlink_to((self.root / name).resolve())
            torchvision.datasets.ImageNet(temporary, split)
            if not meta.is_file():
                (temporary / META_FILE).rename(meta)
            (temporary / split).rename(self.root / split)
        except Exception as error:  # damaged archives and full disks each raise their own kinds
            raise ValueError(
                f"ImageNet's archives in {str(self.root)!r} were not unpacked ({describe_error(error)}) They must be "
                "the published ones, and there must be room for the images."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def transform(self, augment: bool) -> Callable[[Any], Any]:
        """Return a random resized crop and flip for training, and a central crop for evaluation."""
        return resized_crop_and_flip(self.size) if augment else central_crop(self.resize, self.size)

    def read(self, split: str) -> tuple[Any, Any]:
        """Return the image files, decoded as they are needed, and labels [n]."""
        folder = self.root / {"test": "val"}.get(split, split)
        classes = self._classes(folder)
        class_lists = {_subfolders(self.root / name) for name in ("train", "val") if (self.root / name).is_dir()}
        if len(classes) != self.num_classes or len(class_lists) != 1:
            raise ValueError(
                f"{folder} has {len(classes)} folders of classes: there must be `num_classes` of them, "
                f"{self.num_classes}, and train and val must have the same."
            )
        names, labels = class_files(folder)
        return ImageFiles(folder, names), labels

    def _classes(self, folder: Path) -> tuple[str, ...]:
        if not folder.is_dir():
            raise self.missing_error(folder)
        stray = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in (".tar", ".jpeg", ".jpg", ".png"))
        if stray:
            raise ValueError(
                f"{folder} itself holds {stray[0]}: images belong into folders of classes. If an archive was unpacked "
                f"in part, remove {folder}, and it is unpacked anew."
            )
        return _subfolders(folder)


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(p.name for p in folder.iterdir() if p.is_dir()))
