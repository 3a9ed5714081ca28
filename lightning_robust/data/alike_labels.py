"""Datasets whose labels have one type, so that torch can collate them to a batch."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_robust.utils.labels import smoothed


class IntLabels(Dataset[tuple[Any, int]]):
    """Dataset of (image, label) with labels as Python integers.

    torch cannot collate a batch in which some labels are tensors and some are integers.

    Args:
        dataset: the dataset; its samples begin with (image, label).

    Example:
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


class SoftLabels(Dataset[tuple[Any, Tensor]]):
    """Dataset of (image, label) with labels as probabilities [k]; class numbers become one-hot.

    Args:
        dataset: the dataset; its samples begin with (image, label).
        num_classes: number of classes k.

    Example:
        >>> SoftLabels([("image", 1)], num_classes=2)[0]
        ('image', tensor([0., 1.]))
    """

    def __init__(self, dataset: Any, num_classes: int) -> None:
        self.dataset = dataset
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[Any, Tensor]:
        x, y = self.dataset[i][:2]
        return x, smoothed(torch.as_tensor(y)[None], self.num_classes, 0, torch.zeros(()))[0]
