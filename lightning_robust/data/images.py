"""Images with labels, held in memory or decoded as they are needed."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torchvision.datasets import ImageFolder


class Images(Dataset[tuple[Any, int]]):
    """Stored images and their labels.

    Args:
        image: bytes [n h w] or [n h w c], or `ImageFiles`.
        label: class numbers [n].
        transform: from one image to [c h w] in [0, 1]; scaling alone by default.
    """

    def __init__(self, image: Any, label: Any, transform: Callable[[Any], Any] | None = None) -> None:
        self.image, self.label, self.transform = image, label, transform or scaled

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.transform(self.image[i]), int(self.label[i])


class ImageFiles:
    """Colour images decoded by position from the files below a folder.

    Their names are kept in one array: each loading process would come to hold a copy of a list of them
    (https://github.com/pytorch/pytorch/issues/13246), 250 MB for ImageNet.

    Args:
        root: the folder.
        names: of the files, below it.

    Raises:
        ValueError: on reading a file that is not a whole image.
    """

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        self.root, self.names = root, np.array([os.fsencode(name) for name in names])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Image.Image:
        path = self.root / os.fsdecode(self.names[i])
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except Exception as error:  # of each format's own, and of images so large that they must be a trap
            raise ValueError(f"{path} is not a whole image: {error}") from error


def class_files(folder: Path) -> tuple[list[str], list[int]]:
    """The image files in folders of classes, below `folder`, and their labels: numbers of the folders, by name.

    Raises:
        ValueError: if there are none, or none in one of the folders.
    """
    try:
        samples = ImageFolder(str(folder)).samples
    except FileNotFoundError as error:
        raise ValueError(f"{folder} lacks images: {error}") from error
    return [str(Path(path).relative_to(folder)) for path, _ in samples], [y for _, y in samples]


def as_bytes(image: Any) -> Tensor:
    """Bytes [h w] or [h w c], in an array or a PIL image, as a tensor of bytes [c h w]."""
    x = torch.from_numpy(np.array(image))
    return x.unsqueeze(0) if x.dim() == 2 else x.movedim(-1, 0)


def scaled(image: Any) -> Tensor:
    """Bytes [h w] or [h w c], in an array or a PIL image, as float32 [c h w] in [0, 1]."""
    return unit(as_bytes(image))


def collate_bytes(samples: list[Any]) -> list[Any]:
    """A batch of samples with images in [0, 1] as one with bytes.

    Raises:
        ValueError: for images that `unit` would not give back to the bit.
    """
    x, *rest = default_collate(samples)
    bytes_ = (x * 255).round_().to(torch.uint8)
    if not torch.equal(unit(bytes_), x):
        raise ValueError("Bytes cannot hold images that are no multiples of 1/255: leave uint8_transfer out.")
    return [bytes_, *rest]


def unit(x: Tensor) -> Tensor:
    """Bytes as float32 in [0, 1]."""
    return x.float().div_(torch.full((), 255.0, device=x.device))  # by a plain number, CUDA would round otherwise
