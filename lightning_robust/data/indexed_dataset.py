"""Samples that carry their position in the dataset."""

import operator
from typing import Any

from torch.utils.data import Dataset

from lightning_robust.runtime.seeded import torch_seeded
from lightning_robust.types import Batch

Key = int | tuple[int, int]
"""A dataset position, or a position with the seed of its augmentation."""


class Indexed(Dataset[Batch]):
    """Dataset of (x, y, position) around a dataset of (x, y), for methods that remember something for each sample.

    Its samples have the names of a `Batch`, and so torch collates them to one.

    Sampled by `EpochSampler`, a sample's random augmentation depends only on (seed, epoch, position), not on the
    worker, the rank or a restart. For this, transforms must draw from torch's global generator, as torchvision's v2
    transforms do.

    Args:
        dataset: the dataset; its samples begin with (x, y).

    Example:
        >>> x, y, position = Indexed([("a", 0), ("b", 1)])[1]
        >>> x, y, position
        ('b', 1, 1)
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Batch:
        if not isinstance(key, tuple):
            index = range(len(self))[operator.index(key)]  # takes integers of NumPy and torch, and negative ones
            x, y = self.dataset[index][:2]
            return Batch(x, y, index)  # type: ignore[arg-type]  # of one sample
        index, seed = key
        with torch_seeded(seed):
            x, y = self.dataset[index][:2]
        return Batch(x, y, index)  # type: ignore[arg-type]
