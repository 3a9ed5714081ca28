"""Images that are decoded from files as they are needed."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import ImageFolder

from lightning_robust.data.pictures import as_eight_bits, is_grey


class ImageFiles:
    """Sequence of images of 8 bits a channel, each decoded from its file when it is indexed.

    Grey images of 16 bits are scaled, 65535 to 255.

    The file names are kept in one array: every worker process would come to hold a copy of a list of strings
    (https://github.com/pytorch/pytorch/issues/13246), 250 MB for ImageNet.

    Args:
        root: the folder.
        names: paths of the files relative to the folder; an array of another `ImageFiles` is shared.
        mode: Pillow's mode of the images; None keeps each one's own.

    Raises:
        ValueError: on indexing a file that is not a whole image, or whose value range is not known (pixels of 32 bits).
    """

    def __init__(self, root: Path, names: Iterable[str] | NDArray[np.bytes_], mode: str | None = "RGB") -> None:
        self.root = root
        self.mode = mode
        self.names = names if isinstance(names, np.ndarray) else np.array([os.fsencode(name) for name in names])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Image.Image:
        path = self._path(i)
        try:
            with Image.open(path) as image:
                image.load()
        except Exception as error:  # each format raises its own kinds, and Pillow refuses decompression bombs
            raise _not_whole(path, error) from error
        try:
            return as_eight_bits(image, self.mode)
        except ValueError as error:
            raise ValueError(f"{path} {error}") from error

    def is_grey(self, i: int) -> bool:
        """Return whether an image has no colours, from the head of its file alone."""
        try:
            with Image.open(self._path(i)) as image:
                return is_grey(image)
        except Exception as error:
            raise _not_whole(self._path(i), error) from error

    def _path(self, i: int) -> Path:
        return self.root / os.fsdecode(self.names[i])


def _not_whole(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is not a whole image: {error}")


def class_files(folder: Path) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
    """List the image files in a folder that has one folder for each class.

    Args:
        folder: the folder above the class folders.

    Returns:
        The files' paths relative to `folder`, as `ImageFiles` holds them, and their labels: the class folders numbered
        in the order of their names.

    Raises:
        ValueError: if there are no images, or none in one of the class folders.
    """
    try:
        samples = ImageFolder(str(folder)).samples
    except FileNotFoundError as error:
        raise ValueError(f"{folder} lacks images: {error}") from error
    start = len(os.path.join(str(folder), ""))  # a Path for each file would take ten times as long
    return np.array([os.fsencode(path[start:]) for path, _ in samples]), np.array([y for _, y in samples])
