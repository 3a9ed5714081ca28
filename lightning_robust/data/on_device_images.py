"""Training images that stay on the device instead of being loaded for each step."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from lightning_robust.data.augmentation import CropAndFlip
from lightning_robust.data.conversion import to_float_tensor
from lightning_robust.data.images import Images


class OnDeviceImages(Dataset[tuple[Tensor, Any]]):
    """Dataset of (random numbers of the augmentation, label), whose images are gathered on the device.

    `gather` augments the images of a whole batch at once. They are bit for bit those of the dataset it was made from.

    Args:
        samples: a dataset that is held in memory, or a `Subset` of one.

    Raises:
        ValueError: for a dataset that is not in memory, or whose augmentation is not `CropAndFlip`.

    Example:
        >>> data = OnDeviceImages(TensorDataset(torch.rand(5, 1, 4, 4), torch.arange(5)))
        >>> data.gather(torch.tensor([3, 1]), drawn=torch.empty(2, 0)).shape
        torch.Size([2, 1, 4, 4])
    """

    def __init__(self, samples: Dataset[Any]) -> None:
        source: Any = samples.dataset if isinstance(samples, Subset) else samples
        chosen = np.asarray(samples.indices) if isinstance(samples, Subset) else slice(None)
        self.augment: CropAndFlip | None = None
        if type(source) is TensorDataset:  # a subclass may return something else than its tensors
            self.images, self.labels = (tensor[chosen] for tensor in source.tensors[:2])
        elif (
            type(source) is Images
            and isinstance(source.image, np.ndarray)
            and (type(source.transform) is CropAndFlip or source.transform is to_float_tensor)
        ):
            images = torch.from_numpy(np.array(source.image[chosen]))
            images = images.float() if images.is_floating_point() else images
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
        """Return the augmented images of a batch, on the device of `index`.

        Args:
            index: positions [b].
            drawn: random numbers of the augmentation for each image, [b 3], or [b 0] without augmentation.

        Returns:
            Images [b c h w]: bytes if they are stored as bytes, otherwise in [0, 1].
        """
        self.images = self.images.to(index.device)  # copies in the first step only
        x = self.images[index]
        return x if self.augment is None else self.augment.apply(x, drawn)
