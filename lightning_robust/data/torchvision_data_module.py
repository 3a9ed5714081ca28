"""What the datasets share that torchvision reads, checks and downloads."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

from torchvision.datasets.utils import check_integrity

from lightning_robust.data.folder_data_module import FolderDataModule


class TorchvisionDataModule(FolderDataModule):
    """A dataset of torchvision's.

    Args:
        root: the folder, laid out as torchvision does.
        download: whether to fetch what is missing there and unpack what is packed, in one process on each node.
        kwargs: see `RobustDataModule`.

    Raises:
        OSError: in `prepare_data`, if the download fails.
        ValueError: there or in `setup`, for files that are missing or not the published ones.
    """

    remedy = "Set `download: true` to fetch what is missing and unpack what is packed, or put the files there."

    def __init__(self, root: str = "data", download: bool = False, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.download = download

    @property
    def splits(self) -> tuple[str, ...]:
        """What to download."""
        return ("train", "test")

    @abstractmethod
    def files(self, split: str) -> dict[Path, str | None]:
        """The files that a split needs, with their MD5 where one is known."""

    @abstractmethod
    def source(self, split: str, download: bool = False) -> Any:
        """torchvision's dataset."""

    def prepare_data(self) -> None:
        """Download, if asked to and if anything is missing."""
        for split in self.splits if self.download else ():
            if not self._whole(split):
                with self.alone():
                    self._fetch(split)

    def load(self, split: str) -> Any:
        """torchvision's dataset, or an error that says which file is missing or damaged."""
        for path in self.files(split):
            if not path.is_file():
                raise self.missing(path)
        try:
            return self.source(split)
        except Exception as error:  # what is damaged makes the readers fail in any way
            raise self._damaged(split, error) from error

    def _whole(self, split: str) -> bool:
        """Whether a split's files are there, and those published whose MD5 is known."""
        return all(check_integrity(path, md5) for path, md5 in self.files(split).items())

    def _fetch(self, split: str) -> None:
        try:
            self.source(split, download=True)
        except Exception as error:  # of the connection, the archives, the disk
            if all(path.is_file() for path in self.files(split)):
                raise self._damaged(split, error) from error
            raise OSError(
                f"{type(self).__name__} could not be downloaded to {str(self.root)!r} ({error}): try again, or put "
                f"{self.layout} there."
            ) from error

    def _damaged(self, split: str, error: Exception) -> ValueError:
        files = self.files(split)
        damaged = [str(path) for path, md5 in files.items() if not check_integrity(path, md5)]
        known = f"{', '.join(damaged)}: its MD5 is not that of the published file"
        why = known if damaged else f"one of {', '.join(map(str, files))}: {error}"
        return ValueError(
            f"The {split} set of {type(self).__name__} in {str(self.root)!r} is damaged ({why}). Delete it and set "
            "`download: true`, or put the published file there."
        )
