"""A split in which each class has its share."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset


def by_class(order: Tensor, label: Tensor) -> Tensor:
    """Positions [n], rearranged so that any first part of them holds about the same share of every class.

    Args:
        order: a permutation; within a class it stays as it is.
        label: class numbers [n], by position.
    """
    label = label[order]
    count, group = label.bincount(), label.argsort(stable=True)
    first = (count.cumsum(0) - count)[label[group]]  # where the class starts in `group`
    place = torch.empty(len(order), dtype=torch.float64)
    place[group] = (torch.arange(len(order)) - first).double().add_(0.5) / count[label[group]]
    return order[place.argsort(stable=True)]


def labels(dataset: Any) -> Tensor:
    """Class numbers [n] of a dataset, without loading its images.

    Raises:
        ValueError: if they are in none of the usual places.
    """
    if isinstance(dataset, ConcatDataset):
        return torch.cat([labels(part) for part in dataset.datasets])
    if isinstance(dataset, Subset):
        return labels(dataset.dataset)[dataset.indices]
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[1]
    for name in ("targets", "labels", "label"):
        if hasattr(dataset, name):
            return torch.as_tensor(getattr(dataset, name))
    raise ValueError(
        f"A stratified split needs the labels of {type(dataset).__name__}: give it an attribute `targets`."
    )
