"""Several test sets in one, each of a known corruption and severity."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from lightning_robust.data.indexed_dataset import Indexed


class CorruptionSuite(ConcatDataset[Any]):
    """Concatenation of test sets of (image, label), one for each corruption and severity.

    The callback `CorruptionAccuracy` reports each of them. Any trainer takes a loader over one, such as
    `DataLoader(CIFAR10C(root).test_data(), batch_size)`.

    Args:
        parts: a dataset for each (corruption, severity); ("clean", 0) stands for uncorrupted images.

    Example:
        >>> suite = CorruptionSuite({("clean", 0): [1, 2], ("fog", 3): [3, 4, 5]})
        >>> suite.groups, suite.group_of(torch.tensor([0, 2, 4]))
        ([('clean', 0), ('fog', 3)], tensor([0, 1, 1]))
    """

    def __init__(self, parts: Mapping[tuple[str, int], Dataset[Any]]) -> None:
        super().__init__(parts.values())
        self.groups = list(parts)

    def place_of(self, index: Tensor) -> Tensor:
        """Return where the samples at these positions [b] stand in their part [b].

        Example:
            >>> CorruptionSuite({("clean", 0): [1, 2], ("fog", 3): [3, 4, 5]}).place_of(torch.tensor([1, 2, 4]))
            tensor([1, 0, 2])
        """
        starts = torch.tensor([0, *self.cumulative_sizes[:-1]], device=index.device)
        return index - starts[self.group_of(index)]

    def group_of(self, index: Tensor) -> Tensor:
        """Return the number in `groups` [b] of the samples at these positions [b]."""
        return torch.bucketize(index, torch.tensor(self.cumulative_sizes, device=index.device), right=True)


def suite_in(loader: Any) -> CorruptionSuite | None:
    """Return the suite that a data loader runs over, also within `Indexed`; None for any other data."""
    dataset = getattr(loader, "dataset", None)
    dataset = dataset.dataset if isinstance(dataset, Indexed) else dataset
    return dataset if isinstance(dataset, CorruptionSuite) else None
