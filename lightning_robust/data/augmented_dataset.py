"""A dataset whose images go through further transforms of torchvision."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from lightning_robust.data.conversion import as_exact_bytes, bytes_to_float
from lightning_robust.data.timm_rand_augment import TimmRandAugment
from lightning_robust.runtime.seeded import other_generators_seeded

_HOLDERS = (v2.Compose, v2.RandomApply, v2.RandomChoice, v2.RandomOrder, v2.Lambda)
"""Transforms of torchvision that call others, which may draw from any generator."""


class Augmented(Dataset[Any]):
    """Dataset of (image, label) whose images are transformed once they are cropped, flipped and of their final size.

    Transforms are given a tensor [c h w] of bytes, on which those of torchvision work best; of floats in [0, 1] if
    bytes cannot hold the image. They may draw from torch's, Python's or NumPy's global generator: the latter two are
    seeded from the first, which `Indexed` seeds for each sample, unless all transforms are known to draw from it alone.

    Args:
        dataset: dataset of (image [c h w] in [0, 1], label).
        transforms: what the images go through, in this order.

    Raises:
        ValueError: on indexing, if a transform changes the image's shape.

    Example:
        >>> x, y = Augmented([(torch.tensor([[[0.0, 1.0]]]), 7)], [v2.RandomHorizontalFlip(1.0)])[0]
        >>> x, y
        (tensor([[[1., 0.]]]), 7)
    """

    def __init__(self, dataset: Any, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.dataset = dataset
        self.transforms = transforms
        self._draws_elsewhere = not all(map(_draws_from_torch_alone, transforms))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[Tensor, Any]:
        x, y = self.dataset[i][:2]
        stored = as_exact_bytes(x)
        image = x if stored is None else stored
        # seeding the other generators takes as long as a transform
        with other_generators_seeded(int(torch.randint(2**32, ()))) if self._draws_elsewhere else nullcontext():
            for transform in self.transforms:
                image = transform(image)
        if getattr(image, "shape", None) != x.shape:
            raise ValueError(
                f"The augmentation {self.transforms} changed an image of shape {list(x.shape)} to "
                f"{list(getattr(image, 'shape', [type(image).__name__]))}: name only transforms that keep the shape."
            )
        return bytes_to_float(image), y


def _draws_from_torch_alone(transform: Any) -> bool:
    known = type(transform).__module__.partition(".")[0] in ("torchvision", "lightning_robust")
    return known and not isinstance(transform, (*_HOLDERS, TimmRandAugment))
