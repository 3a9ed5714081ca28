"""The base class of published datasets in a folder."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lightning_robust.data.arrays import check_classes
from lightning_robust.data.data_module import RobustDataModule
from lightning_robust.data.images import Images


class FolderDataModule(RobustDataModule):
    """Base class of published datasets in a folder, whose splits are read once.

    Args:
        root: the folder.
        kwargs: further arguments of `RobustDataModule`.

    Raises:
        ValueError: in `setup`, for files that are missing or not the published ones.
    """

    layout: str
    """What the folder must hold."""
    download_hint: str
    """How to get the files there."""

    def __init__(self, root: str = "data", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = Path(root).expanduser()
        self._splits: dict[str, tuple[Any, Any]] = {}

    @abstractmethod
    def read(self, split: str) -> tuple[Any, Any]:
        """Return the images, as `Images` takes them, and labels [n] of the split "train" or "test"."""

    def images(self, split: str, augment: bool = False) -> Images:
        """Return a dataset of a split, transformed as it is read.

        The stored images are read once and shared by all datasets of the split.

        Args:
            split: "train" or "test".
            augment: whether to use the transform for training.
        """
        image, label = self.stored(split)
        check_classes(label, self.num_classes, len(image), f"The {split} set of {type(self).__name__} in {self.root}")
        return Images(image, label, self.transform(augment))

    def stored(self, split: str) -> tuple[Any, NDArray[Any]]:
        """Return what `read` gives, read once; the labels as an array."""
        if split not in self._splits:
            image, label = self.read(split)
            self._splits[split] = image, np.asarray(label)
        return self._splits[split]

    def train_data(self, augment: bool) -> Dataset[Any]:
        """Return the whole training set, with or without augmentation."""
        return self.images("train", augment)

    def test_data(self) -> Dataset[Any]:
        """Return the test set, without augmentation."""
        return self.images("test")

    @contextmanager
    def locked_root(self) -> Iterator[None]:
        """Hold a lock on the folder, so that no other process or node downloads or unpacks into it.

        Raises:
            PermissionError: if the lock file cannot be written.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / ".lock", mode=0o666)  # other users of the folder must be able to take it
        try:
            lock.acquire()
        except PermissionError as error:
            raise PermissionError(
                f"{lock.lock_file} may not be written, so that {type(self).__name__} cannot be fetched or unpacked "
                "there: ask its owner, or give another `root`."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def missing_error(self, path: Path) -> ValueError:
        """Return the error to raise for a file or folder that is not there."""
        folder = next((p for p in path.parents if p.is_dir() and p.is_relative_to(self.root)), self.root)
        found = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        listed = ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
        there = f"{folder} holds only {listed}" if found else f"{folder} is empty or does not exist"
        return ValueError(
            f"There is no {path}: {type(self).__name__} expects {self.layout} in the folder {str(self.root)!r}, but "
            f"{there}. {self.download_hint}"
        )
