"""Splits of a dataset into training and validation samples."""

import hashlib
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from lightning_robust.runtime.rng import derive_seed

Positions: TypeAlias = NDArray[np.int64]


class Part(Subset[Any]):
    """Subset of a dataset whose positions are held in one array.

    Every loading process would come to hold a copy of a list (https://github.com/pytorch/pytorch/issues/13246), 46 MB
    for ImageNet.

    Args:
        dataset: the dataset, which is asked for Python integers; of another `Part`, its dataset is taken.
        indices: positions in it [n].

    Example:
        >>> part = Part(["a", "b", "c"], np.array([2, 0]))
        >>> len(part), part[0], part[1]
        (2, 'c', 'a')
    """

    indices: Positions  # type: ignore[assignment]

    def __init__(self, dataset: Any, indices: Positions) -> None:
        if isinstance(dataset, Part):
            dataset, indices = dataset.dataset, dataset.indices[indices]
        super().__init__(dataset, indices)  # type: ignore[arg-type]

    def __getitem__(self, i: int) -> Any:
        return self.dataset[int(self.indices[i])]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[i] for i in indices]


def train_val_split(dataset: Any, val_size: int | float, seed: int, stratified: bool) -> tuple[Positions, Positions]:
    """Split a dataset's positions at random; the result depends on nothing but the arguments.

    Args:
        dataset: the dataset; only its length is used, and its labels for a stratified split.
        val_size: number of validation samples, less than there are samples, or their share, a float below 1.
        seed: seed of the permutation.
        stratified: whether every class gives the same share of its samples.

    Returns:
        Positions of the training and of the validation samples, each in increasing order.

    Raises:
        ValueError: for a `val_size` that leaves nothing, or a stratified split of a dataset without labels.

    Example:
        >>> train_val_split(range(6), val_size=2, seed=0, stratified=False)
        (array([2, 3, 4, 5]), array([0, 1]))
    """
    n = len(dataset)
    if isinstance(val_size, float):
        if not 0 <= val_size < 1:
            raise ValueError(f"val_size as a share of the samples must be at least 0 and below 1, got {val_size}.")
        val_size = round(val_size * n)
    if not 0 <= val_size < n:
        raise ValueError(f"val_size must lie between 0 and {n - 1}, got {val_size} of {n} samples.")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed(seed)))
    if stratified:
        order = stratified_order(order, class_labels(dataset))
    return order[val_size:].sort().values.numpy(), order[:val_size].sort().values.numpy()


def describe_split(validation: Positions, n: int) -> str:
    """Return a short text that is different for different validation samples.

    Args:
        validation: positions of the validation samples.
        n: number of samples in the whole dataset.

    Example:
        >>> describe_split(np.array([2, 3]), 6)
        '2 of 6: 5bf775530e2e'
    """
    return f"{len(validation)} of {n}: {hashlib.sha256(repr(validation.tolist()).encode()).hexdigest()[:12]}"


def stratified_order(order: Tensor, label: Tensor) -> Tensor:
    """Rearrange positions so that any first part of them has about the same share of every class.

    Args:
        order: a permutation of the positions [n]; within a class its order is kept.
        label: class numbers [n], by position.

    Returns:
        The positions [n], rearranged.

    Example:
        >>> stratified_order(torch.arange(6), torch.tensor([0, 0, 0, 0, 1, 1]))
        tensor([0, 4, 1, 2, 5, 3])
    """
    label = label[order]
    count = label.bincount()
    by_class = label.argsort(stable=True)
    class_start = (count.cumsum(0) - count)[label[by_class]]
    place = torch.empty(len(order), dtype=torch.float64)
    # the i-th of a class's m samples goes to the share (i + 1/2) / m of the whole
    place[by_class] = (torch.arange(len(order)) - class_start).double().add_(0.5) / count[label[by_class]]
    return order[place.argsort(stable=True)]


def class_labels(dataset: Any) -> Tensor:
    """Return a dataset's class numbers [n] without loading its images.

    Args:
        dataset: a `TensorDataset`, a dataset with an attribute `targets`, `labels` or `label`, or a `Subset` or
            `ConcatDataset` of such.

    Raises:
        ValueError: if the labels are in none of these places.

    Example:
        >>> class_labels(Subset(TensorDataset(torch.zeros(3, 1), torch.tensor([5, 6, 7])), [2, 0]))
        tensor([7, 5])
    """
    if isinstance(dataset, ConcatDataset):
        return torch.cat([class_labels(part) for part in dataset.datasets])
    if isinstance(dataset, Subset):
        return class_labels(dataset.dataset)[dataset.indices]
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[1]
    for name in ("targets", "labels", "label"):
        if hasattr(dataset, name):
            return torch.as_tensor(getattr(dataset, name))
    raise ValueError(
        f"A stratified split needs the labels of {type(dataset).__name__}: give it an attribute `targets`."
    )
