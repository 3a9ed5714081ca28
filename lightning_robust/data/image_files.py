"""Images that are decoded from files as they are needed."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import ImageFolder


class ImageFiles:
    """Sequence of RGB images, each decoded from its file when it is indexed.

    The file names are kept in one array: every worker process would come to hold a copy of a list of strings
    (https://github.com/pytorch/pytorch/issues/13246), 250 MB for ImageNet.

    Args:
        root: the folder.
        names: paths of the files relative to the folder.

    Raises:
        ValueError: on indexing a file that is not a whole image.
    """

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        self.root = root
        self.names = np.array([os.fsencode(name) for name in names])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Image.Image:
        path = self.root / os.fsdecode(self.names[i])
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except Exception as error:  # each format raises its own kinds, and Pillow refuses decompression bombs
            raise ValueError(f"{path} is not a whole image: {error}") from error


def class_files(folder: Path) -> tuple[list[str], list[int]]:
    """List the image files in a folder that has one folder for each class.

    Args:
        folder: the folder above the class folders.

    Returns:
        The files' paths relative to `folder`, and their labels: the class folders numbered in the order of their names.

    Raises:
        ValueError: if there are no images, or none in one of the class folders.
    """
    try:
        samples = ImageFolder(str(folder)).samples
    except FileNotFoundError as error:
        raise ValueError(f"{folder} lacks images: {error}") from error
    return [str(Path(path).relative_to(folder)) for path, _ in samples], [y for _, y in samples]
