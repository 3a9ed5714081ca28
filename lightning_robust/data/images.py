"""A dataset of stored images and their labels."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_robust.data.conversion import to_float_tensor


class Images(Dataset[tuple[Any, Any]]):
    """Dataset of stored images and labels, transformed one at a time as they are read.

    Args:
        image: bytes [n h w] or [n h w c], `ImageFiles` or `Shards`.
        label: class numbers [n], or probabilities [n k].
        transform: from one stored image to [c h w] in [0, 1]; scaling only by default.

    Example:
        >>> x, y = Images(np.zeros((2, 4, 4), dtype=np.uint8), [7, 8])[1]
        >>> x.shape, y
        (torch.Size([1, 4, 4]), 8)
    """

    def __init__(self, image: Any, label: Any, transform: Callable[[Any], Any] | None = None) -> None:
        self.image = image
        self.label = label
        self.transform = transform or to_float_tensor

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, i: int) -> tuple[Any, int | Tensor]:
        y = self.label[i]
        # through NumPy, since torch reads one byte order alone
        return self.transform(self.image[i]), torch.tensor(np.asarray(y, np.float32)) if np.ndim(y) else int(y)
