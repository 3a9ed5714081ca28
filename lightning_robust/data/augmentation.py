"""How the papers' recipes augment, from a stored image to [c h w] in [0, 1].

All draws are torch's own, one by one for each image, so that `Indexed` can repeat them.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from lightning_robust.data.images import as_bytes, scaled, unit

Padding: TypeAlias = Literal["constant", "reflect"]


class CropAndFlip:
    """A window of `size` x `size` of the padded image (zeros, or its reflection), mirrored every other time.

    Called on an image it is torchvision's `RandomCrop` and `RandomHorizontalFlip`. `draw` takes the same numbers from
    torch's generator, and `apply` does the same with them, bit for bit, for a whole batch on any device.

    Args:
        size: pixels of the window on each side.
        padding: pixels added on each side first.
        padding_mode: "constant" or "reflect".
    """

    def __init__(self, size: int, padding: int = 4, padding_mode: Padding = "constant") -> None:
        self.size, self.padding, self.padding_mode = size, padding, padding_mode
        crop = v2.RandomCrop(size, padding, padding_mode=padding_mode)
        self._one = v2.Compose([as_bytes, crop, v2.RandomHorizontalFlip(), unit])

    def __call__(self, image: Any) -> Tensor:
        """From bytes [h w] or [h w c] to [c size size] in [0, 1]."""
        x: Tensor = self._one(image)
        return x

    def draw(self, height: int, width: int) -> Tensor:
        """For an image: the window's first row and column in the padded image, and whether it is mirrored [3]."""
        rooms = (side + 2 * self.padding - self.size for side in (height, width))
        corner = [int(torch.randint(room + 1, ())) if room else 0 for room in rooms]
        return torch.tensor([*corner, int(torch.rand(1) < 0.5)])

    def apply(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Bytes [b c h w] and what was drawn for each [b 3] to bytes [b c size size], on any device."""
        (b, c, h, w), (top, left, mirrored) = x.shape, drawn.T.unsqueeze(2)
        window = torch.arange(self.size, device=x.device)
        rows = top + window - self.padding
        columns = left + torch.where(mirrored > 0, window.flip(0), window) - self.padding
        (inner_rows, rows), (inner_columns, columns) = self._inside(rows, h), self._inside(columns, w)
        images, channels = (torch.arange(n, device=x.device) for n in (b, c))
        out = x[images[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None]]
        inside = inner_rows[:, None, :, None] & inner_columns[:, None, None]
        return out if self.padding_mode == "reflect" else out * inside

    def _inside(self, place: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Which places lie on the image, and where on it each takes its value from."""
        if self.padding_mode == "reflect":
            return place >= 0, side - 1 - (side - 1 - place.abs()).abs()
        return (place >= 0) & (place < side), place.clamp(0, side - 1)


def resized_crop_and_flip(size: int) -> Callable[[Any], Tensor]:
    """8 % to 100 % of the image, 3:4 to 4:3 in shape, resized to `size` x `size`, mirrored every other time."""
    steps = [_as_pil, v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), scaled]
    transform: Callable[[Any], Tensor] = v2.Compose(steps)
    return transform


def central_crop(resize: int, size: int) -> Callable[[Any], Tensor]:
    """The central `size` x `size` after the shorter side was resized to `resize`."""
    transform: Callable[[Any], Tensor] = v2.Compose([_as_pil, v2.Resize(resize), v2.CenterCrop(size), scaled])
    return transform


def _as_pil(image: Any) -> Image.Image:
    """Resizing is Pillow's, as in published evaluations."""
    return image if isinstance(image, Image.Image) else Image.fromarray(image)
