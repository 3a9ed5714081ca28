"""One's own images in folders of classes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from lightning_robust.data.image_files import ImageFiles
from lightning_robust.data.inspected_data_module import InspectedDataModule

_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""Names of the folders of each split."""


class ImageFolder(InspectedDataModule):
    """One's own images, each in a folder with the name of its class.

    The classes' folders are in `<root>/train`, with `<root>/val` and `<root>/test` likewise if there are such; or in
    `root` itself, a single set of which a part is held out for the test. Classes are numbered in the order of their
    names. Images are decoded as they are needed.

    Args:
        root: the folder.
        kwargs: further arguments of `InspectedDataModule` and `RobustDataModule`.

    Raises:
        ValueError: when the data are looked at, for folders that are missing, empty or laid out differently; on
            reading a file that is not a whole image.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (root / name).mkdir()
        ...     for i in range(10):
        ...         Image.new("RGB", (32, 24), "red").save(root / name / f"{i}.jpg")
        >>> data = ImageFolder(str(root))
        >>> data.class_names, data.in_channels, data.image_size
        (['cat', 'dog'], 3, (24, 32))
    """

    layout = (
        "train/<class>/<image>, with val/<class>/<image> and test/<class>/<image> if there are such, or "
        "<class>/<image>, which is split,"
    )

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have folders of their own."""
        return tuple(split for split in _FOLDERS if self._folder(split) is not None)

    def read_class_names(self) -> list[str]:
        """Return the names of the classes' folders."""
        folder = self._folder("train")
        if folder is None:
            raise self.missing_error(self.root / "train")
        names = _subfolders(folder)
        if not names:
            raise self.missing_error(folder / "<class>")
        return names

    def read(self, split: str) -> tuple[ImageFiles, Any]:
        """Return the image files and labels [n]."""
        names, folder = self.class_names or [], self._folder(split)
        assert folder is not None  # else the names were refused, or the split was not asked for
        if unknown := sorted({*_subfolders(folder)} - {*names}):
            raise ValueError(
                f"{folder} has a class {unknown[0]!r} that the training images lack: they have {', '.join(names[:10])}."
            )
        files = make_dataset(str(folder), {name: k for k, name in enumerate(names)}, IMG_EXTENSIONS, allow_empty=True)
        label = np.array([k for _, k in files], dtype=int)
        if split == "train" and (lacking := {*range(len(names))} - {*label.tolist()}):
            raise self.missing_error(folder / names[min(lacking)] / "<image>")
        start = len(os.path.join(str(folder), ""))  # a Path for each file would take ten times as long
        return ImageFiles(folder, np.array([os.fsencode(path[start:]) for path, _ in files]), mode=None), label

    def _folder(self, split: str) -> Path | None:
        named = {part: self._first(names) for part, names in _FOLDERS.items()}
        return named[split] if any(named.values()) else self.root if split == "train" else None

    def _first(self, names: Sequence[str]) -> Path | None:
        return next((self.root / name for name in names if (self.root / name).is_dir()), None)


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
