"""Augmentation of the papers' recipes, from a stored image to a tensor [c h w] in [0, 1].

All random numbers come from torch's global generator, image by image, so that `Indexed` can repeat them.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from lightning_robust.data.conversion import bytes_to_float, to_byte_tensor, to_float_tensor

Padding: TypeAlias = Literal["constant", "reflect"]
"""How an image is padded: with zeros, or with its reflection."""


class CropAndFlip:
    """Random crop of the padded image, and a horizontal flip with probability 1/2.

    Called on one image, it is torchvision's `RandomCrop` and `RandomHorizontalFlip`. `draw` takes the same random
    numbers from torch's generator, and `apply` gives bit for bit the same images for a whole batch on any device.

    Args:
        size: height and width of the crop in pixels; one number for both.
        padding: pixels added on each side before the crop.
        padding_mode: "constant" (zeros) or "reflect".
        flip: whether to flip.

    Example:
        >>> crop = CropAndFlip(size=32, padding=4)
        >>> crop(torch.zeros(32, 32, 3, dtype=torch.uint8).numpy()).shape
        torch.Size([3, 32, 32])
    """

    def __init__(
        self, size: int | tuple[int, int], padding: int = 4, padding_mode: Padding = "constant", flip: bool = True
    ) -> None:
        self.size = (size, size) if isinstance(size, int) else size
        self.padding = padding
        self.padding_mode = padding_mode
        self.flip = flip
        crop = v2.RandomCrop(self.size, padding, padding_mode=padding_mode)
        flips = [v2.RandomHorizontalFlip()] if flip else []
        self._transform = v2.Compose([to_byte_tensor, crop, *flips, bytes_to_float])

    def __call__(self, image: Any) -> Tensor:
        """Augment one image [h w] or [h w c]; returns [c h w] of the crop's size, in [0, 1]."""
        x: Tensor = self._transform(image)
        return x

    def draw(self, height: int, width: int) -> Tensor:
        """Draw the random numbers for one image.

        Args:
            height: pixels of the image before padding.
            width: likewise.

        Returns:
            Three integers: first row and first column of the crop in the padded image, and whether it is flipped.
        """
        corner = []
        for side, size in zip((height, width), self.size, strict=True):
            room = side + 2 * self.padding - size
            corner.append(int(torch.randint(room + 1, ())) if room else 0)
        return torch.tensor([*corner, int(self.flip and torch.rand(1) < 0.5)])

    def apply(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Augment a batch with random numbers that were drawn before.

        Args:
            x: images [b c h w], on any device.
            drawn: what `draw` gave for each image [b 3], on the same device.

        Returns:
            Images [b c h w] of the crop's size.
        """
        b, c, h, w = x.shape
        top, left, flipped = drawn.T.unsqueeze(2)
        down, along = (torch.arange(size, device=x.device) for size in self.size)
        rows = top + down - self.padding
        columns = left + torch.where(flipped > 0, along.flip(0), along) - self.padding
        rows_inside, rows = self._source(rows, h)
        columns_inside, columns = self._source(columns, w)
        images = torch.arange(b, device=x.device)[:, None, None, None]
        channels = torch.arange(c, device=x.device)[:, None, None]
        out = x[images, channels, rows[:, None, :, None], columns[:, None, None]]
        if self.padding_mode == "reflect":
            return out
        return out * (rows_inside[:, None, :, None] & columns_inside[:, None, None])

    def _source(self, position: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Return which positions lie on the image, and the position that each one takes its value from."""
        if self.padding_mode == "reflect":
            return position >= 0, side - 1 - (side - 1 - position.abs()).abs()
        return (position >= 0) & (position < side), position.clamp(0, side - 1)


def resized_crop_and_flip(size: int) -> Callable[[Any], Tensor]:
    """Return ImageNet's training transform: a random resized crop and a horizontal flip with probability 1/2.

    The crop has 8 % to 100 % of the image's area and an aspect ratio of 3:4 to 4:3.

    Args:
        size: height and width of the result in pixels.

    Example:
        >>> import numpy as np
        >>> resized_crop_and_flip(8)(np.zeros((20, 30, 3), dtype=np.uint8)).shape
        torch.Size([3, 8, 8])
    """
    steps = [_as_pil, v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), to_float_tensor]
    transform: Callable[[Any], Tensor] = v2.Compose(steps)
    return transform


def central_crop(resize: int, size: int) -> Callable[[Any], Tensor]:
    """Return ImageNet's evaluation transform: resize, then crop the centre.

    Args:
        resize: pixels that the shorter side is resized to.
        size: height and width of the crop in pixels.

    Example:
        >>> import numpy as np
        >>> central_crop(10, 8)(np.zeros((20, 30, 3), dtype=np.uint8)).shape
        torch.Size([3, 8, 8])
    """
    steps = [_as_pil, v2.Resize(resize), v2.CenterCrop(size), to_float_tensor]
    transform: Callable[[Any], Tensor] = v2.Compose(steps)
    return transform


def _as_pil(image: Any) -> Image.Image:
    # published evaluations resize with Pillow, whose results differ from those of torch's own resizing
    return image if isinstance(image, Image.Image) else Image.fromarray(image)
