"""Test sets under common corruptions: which samples have which corruption, and what the published sets share."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from lightning_robust.data.base import RobustDataModule
from lightning_robust.metrics import COMMON_CORRUPTIONS

SEVERITIES = (1, 2, 3, 4, 5)


class Corruptions(ConcatDataset[Any]):
    """Several test sets, one after the other, each of a known corruption and severity: samples (image, label).

    `CorruptionAccuracy` reports each of them. Any trainer takes `DataLoader(CIFAR10C(root).test_data(), batch_size)`.

    Args:
        parts: a dataset for each (corruption, severity); ("clean", 0) stands for uncorrupted images.
    """

    def __init__(self, parts: Mapping[tuple[str, int], Dataset[Any]]) -> None:
        super().__init__(parts.values())
        self.groups = list(parts)

    def group_of(self, index: Tensor) -> Tensor:
        """The numbers in `groups` of the samples at these positions [b]."""
        return torch.bucketize(index, torch.tensor(self.cumulative_sizes, device=index.device), right=True)


class CorruptedTestSet(RobustDataModule):
    """A published set of corrupted test images, for `test` and `validate`.

    Args:
        root: the folder that holds the corruptions.
        corruptions: which of them; by default the fifteen common ones.
        severities: which of 1 to 5; by default all.
        eval_batch_size: samples a step on each device.
        kwargs: see `RobustDataModule`; the settings of training are not used.

    Raises:
        ValueError: for no corruptions, no severities or one outside 1 to 5; in `setup`, for files that are missing or
            of another form, and in order to train.
    """

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
        """Find the files; `validate` is on the same images as `test`."""
        super().setup("fit" if stage == "fit" else "test")
        self.val_set = self.test_set

    def train_data(self, augment: bool) -> Dataset[Any]:
        """There is none."""
        raise ValueError(f"{type(self).__name__} holds test images alone: train on another dataset and `test` on this.")

    @abstractmethod
    def test_data(self) -> Corruptions:
        """The images of every corruption and severity."""

    def _missing(self, path: Path) -> ValueError:
        found = sorted(p.stem for p in self.root.iterdir() if p.stem != "labels") if self.root.is_dir() else []
        there = f"it has {', '.join(found)}" if found else "it is empty or does not exist"
        return ValueError(
            f"There is no {path}: {type(self).__name__} expects its corruptions in the folder {str(self.root)!r}, but "
            f"{there}. Unpack the published files there, or choose among them with `corruptions`."
        )
