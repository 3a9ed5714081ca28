"""Training images that wait on the device instead of being loaded for each step."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from lightning_robust.data.augmentation import CropAndFlip
from lightning_robust.data.images import Images, scaled


class OnDeviceImages(Dataset[tuple[Tensor, Any]]):
    """A training set held in memory as one of (what is drawn for the augmentation, label).

    The images of a batch are then gathered and augmented all at once where they lie: bit for bit those that the
    training set itself would have given.

    Args:
        samples: part of a training set.

    Raises:
        ValueError: for a training set that is not in memory, or whose augmentation is not `CropAndFlip`.
    """

    def __init__(self, samples: Dataset[Any]) -> None:
        source: Any = samples.dataset if isinstance(samples, Subset) else samples
        chosen = list(samples.indices) if isinstance(samples, Subset) else slice(None)
        self.augment: CropAndFlip | None = None
        if type(source) is TensorDataset:  # classes derived from it may do more than give what they hold
            self.images, self.labels = (tensor[chosen] for tensor in source.tensors[:2])
        elif (
            type(source) is Images
            and isinstance(source.image, np.ndarray)
            and (type(source.transform) is CropAndFlip or source.transform is scaled)
        ):
            images = torch.from_numpy(source.image[chosen])
            self.images = images.unsqueeze(1) if images.dim() == 3 else images.movedim(-1, 1).contiguous()
            self.labels = torch.as_tensor(np.asarray(source.label)[chosen]).long()
            self.augment = source.transform if isinstance(source.transform, CropAndFlip) else None
        else:
            raise ValueError(
                "on_device needs training images that are held in memory, and cropped and flipped at most (Digits, "
                "MNIST, SVHN without extra, CIFAR10, CIFAR100): leave it out for these."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, Any]:
        h, w = self.images.shape[2:]
        return torch.empty(0) if self.augment is None else self.augment.draw(h, w), self.labels[i]

    def gather(self, index: Tensor, drawn: Tensor) -> Tensor:
        """The images [b c h w] at these positions [b], on their device; those stored as bytes as such."""
        self.images = self.images.to(index.device)  # once
        x = self.images[index]
        if self.augment is not None:
            x = self.augment.apply(x, drawn)
        return x
