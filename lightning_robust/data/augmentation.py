"""How the papers' recipes augment, from a stored image to [c h w] in [0, 1].

All draws are torch's own, one by one for each image, so that `Indexed` can repeat them.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from lightning_robust.data.images import as_bytes, scaled

Padding: TypeAlias = Literal["constant", "reflect"]


def crop_and_flip(size: int, padding: int = 4, padding_mode: Padding = "constant") -> Callable[[Any], Tensor]:
    """A window of `size` x `size` of the padded image (zeros, or its reflection), mirrored every other time."""
    crop = v2.RandomCrop(size, padding, padding_mode=padding_mode)
    transform: Callable[[Any], Tensor] = v2.Compose([as_bytes, crop, v2.RandomHorizontalFlip(), _in_unit])
    return transform


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


def _in_unit(x: Tensor) -> Tensor:
    return x.float().div_(255)
