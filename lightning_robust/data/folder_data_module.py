"""What published datasets in a folder share: splits that are read once, and one clear error for what is not there."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from torch.utils.data import Dataset

from lightning_robust.data.arrays import check_classes
from lightning_robust.data.base import RobustDataModule
from lightning_robust.data.images import Images


class FolderDataModule(RobustDataModule):
    """A published dataset in a folder.

    Args:
        root: the folder.
        kwargs: see `RobustDataModule`.

    Raises:
        ValueError: in `setup`, for files that are missing or not as published.
    """

    layout: str
    """What the folder must hold."""
    remedy: str
    """How it gets there."""

    def __init__(self, root: str = "data", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = Path(root).expanduser()
        self._splits: dict[str, tuple[Any, Any]] = {}

    @abstractmethod
    def read(self, split: str) -> tuple[Any, Any]:
        """Images as `Images` takes them, and class numbers [n], of "train" or "test"."""

    def images(self, split: str, augment: bool = False) -> Images:
        """The images of a split, transformed as they are needed; the stored ones are shared by all that asks."""
        if split not in self._splits:
            image, label = self.read(split)
            label = np.asarray(label)
            check_classes(
                label, self.num_classes, len(image), f"The {split} set of {type(self).__name__} in {self.root}"
            )
            self._splits[split] = image, label
        return Images(*self._splits[split], self.transform(augment))

    def train_data(self, augment: bool) -> Dataset[Any]:
        """The whole training set."""
        return self.images("train", augment)

    def test_data(self) -> Dataset[Any]:
        """The test set."""
        return self.images("test")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no other node that shares the folder fetches or unpacks anything into it."""
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / ".lock", mode=0o666)  # for whoever else uses the folder, too
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

    def missing(self, path: Path) -> ValueError:
        """The error for a file or folder that is not there."""
        folder = next((p for p in path.parents if p.is_dir() and p.is_relative_to(self.root)), self.root)
        found = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        listed = ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
        there = f"{folder} holds only {listed}" if found else f"{folder} is empty or does not exist"
        return ValueError(
            f"There is no {path}: {type(self).__name__} expects {self.layout} in the folder {str(self.root)!r}, but "
            f"{there}. {self.remedy}"
        )
