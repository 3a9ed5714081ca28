"""The base class of datasets that torchvision reads, checks and downloads."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

from torchvision.datasets.utils import check_integrity

from lightning_robust.data.folder_data_module import FolderDataModule
from lightning_robust.utils.messages import describe_error


class TorchvisionDataModule(FolderDataModule):
    """Base class of datasets that torchvision reads and downloads.

    Args:
        root: the folder, laid out as torchvision does.
        download: whether to download missing files and unpack packed ones, in one process on each node.
        kwargs: further arguments of `RobustDataModule`.

    Raises:
        OSError: in `prepare_data`, if the download fails.
        ValueError: in `prepare_data` or `setup`, for files that are missing or not the published ones.
    """

    download_hint = "Set `download: true` to fetch what is missing and unpack what is packed, or put the files there."

    def __init__(self, root: str = "data", download: bool = False, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.download = download
        self.name = type(self).__name__

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits to download."""
        return ("train", "test")

    def files(self, split: str) -> dict[Path, str | None]:
        """Return the files that a split needs, with their MD5 if it is known; none if only torchvision knows them."""
        return {}

    @abstractmethod
    def source(self, split: str, download: bool = False) -> Any:
        """Return torchvision's dataset of the split."""

    def prepare_data(self) -> None:
        """Download the splits with missing or damaged files, if `download` is set."""
        for split in self.splits if self.download else ():
            if not self._is_complete(split):
                with self.locked_root():
                    self._download(split)

    def load(self, split: str) -> Any:
        """Return torchvision's dataset of the split.

        Raises:
            ValueError: that names the file that is missing or damaged.
        """
        for path in self.files(split):
            if not path.is_file():
                raise self.missing_error(path)
        try:
            return self.source(split)
        except Exception as error:  # torchvision's readers raise many kinds for damaged files
            if not self.files(split):
                raise ValueError(
                    f"torchvision cannot read the {split} set of {self.name} in {str(self.root)!r} "
                    f"({describe_error(error)}) {self.download_hint}"
                ) from error
            raise self._damaged_error(split, error) from error

    def _is_complete(self, split: str) -> bool:
        if files := self.files(split):
            return all(check_integrity(path, md5) for path, md5 in files.items())
        try:
            self.source(split)
        except Exception:  # torchvision's readers raise many kinds
            return False
        return True

    def _download(self, split: str) -> None:
        try:
            self.source(split, download=True)
        except Exception as error:  # the connection, damaged archives and full disks each raise their own kinds
            if self.files(split) and all(path.is_file() for path in self.files(split)):
                raise self._damaged_error(split, error) from error
            raise OSError(
                f"{self.name} could not be downloaded to {str(self.root)!r} ({error}): try again, or put {self.layout} "
                "there."
            ) from error

    def _damaged_error(self, split: str, error: Exception) -> ValueError:
        files = self.files(split)
        damaged = [str(path) for path, md5 in files.items() if not check_integrity(path, md5)]
        if damaged:
            why = f"{', '.join(damaged)}: its MD5 is not that of the published file"
        else:
            why = f"one of {', '.join(map(str, files))}: {error}"
        return ValueError(
            f"The {split} set of {type(self).__name__} in {str(self.root)!r} is damaged ({why}). Delete it and set "
            "`download: true`, or put the published file there."
        )
