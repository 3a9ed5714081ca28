"""A dataset whose labels are Python integers."""

from typing import Any

from torch.utils.data import Dataset


class IntLabels(Dataset[tuple[Any, int]]):
    """Dataset of (image, label) with labels as Python integers.

    torch cannot collate a batch in which some labels are tensors and some are integers.

    Args:
        dataset: the dataset; its samples begin with (image, label).

    Example:
        >>> import torch
        >>> IntLabels([("image", torch.tensor(3))])[0]
        ('image', 3)
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        x, y = self.dataset[i][:2]
        return x, int(y)
