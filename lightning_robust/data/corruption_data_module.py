"""The base class of published sets of corrupted test images."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from lightning_robust.data.corrupted_dataset import SEVERITIES
from lightning_robust.data.corruption_suite import CorruptionSuite
from lightning_robust.data.data_module import RobustDataModule
from lightning_robust.metrics import COMMON_CORRUPTIONS


class CorruptionDataModule(RobustDataModule):
    """Base class of published sets of corrupted test images, for `test` and `validate`.

    Args:
        root: folder that holds the corruptions.
        corruptions: names of the corruptions to test; by default the fifteen common ones.
        severities: severities to test, from 1 to 5; by default all.
        eval_batch_size: samples of a step on each device.
        kwargs: further arguments of `RobustDataModule`; those for training are not used.

    Raises:
        ValueError: for no corruptions, no severities or one outside 1 to 5; in `setup`, for files that are missing or
            have another form; on training, because there are no training images.
    """

    in_channels = 3

    def __init__(
        self,
        root: str,
        corruptions: list[str] | None = None,
        severities: list[int] | None = None,
        eval_batch_size: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(eval_batch_size=eval_batch_size, **kwargs)
        self.root = Path(root).expanduser()
        self.corruptions = list(COMMON_CORRUPTIONS) if corruptions is None else corruptions
        self.severities = list(SEVERITIES) if severities is None else severities
        if not self.corruptions or not self.severities or not set(self.severities) <= set(SEVERITIES):
            raise ValueError(
                f"There must be corruptions, and severities between 1 and 5; got {self.corruptions}, {self.severities}."
            )

    def setup(self, stage: str | None = None) -> None:
        """Find the files; `validate` uses the same images as `test`."""
        super().setup("fit" if stage == "fit" else "test")
        self.val_set = self.test_set

    def train_data(self, augment: bool) -> Dataset[Any]:
        """Raise an error, because there are no training images."""
        raise ValueError(f"{type(self).__name__} holds test images alone: train on another dataset and `test` on this.")

    @abstractmethod
    def test_data(self) -> CorruptionSuite:
        """Return the images of every corruption and severity."""

    def missing_error(self, path: Path) -> ValueError:
        """Return the error to raise for a file or folder of a corruption that is not there."""
        found = sorted(p.stem for p in self.root.iterdir() if p.stem != "labels") if self.root.is_dir() else []
        there = f"it has {', '.join(found)}" if found else "it is empty or does not exist"
        return ValueError(
            f"There is no {path}: {type(self).__name__} expects its corruptions in the folder {str(self.root)!r}, but "
            f"{there}. Unpack the published files there, or choose among them with `corruptions`."
        )
