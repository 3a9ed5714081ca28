"""IDBH, an augmentation of many and hard images for adversarial training."""

import math
from bisect import bisect_right
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from lightning_robust.data.random_erasing import RandomErasing

ENHANCED = {
    "adjust_saturation": (0.1, 1.9),
    "adjust_brightness": (0.5, 1.9),
    "adjust_contrast": (0.5, 1.9),
    "adjust_sharpness": (0.1, 1.9),
    "autocontrast": None,
    "equalize": None,
}
"""Functions of torchvision that change colours, with the range of their factor, if they have one."""


class Version(NamedTuple):
    """Settings that the authors tuned for a dataset and a size of net.

    Args:
        crop: most pixels that are cut off, along both axes together.
        weights: probabilities of the functions in `ENHANCED`, of a shear and of a rotation.
        shear: largest shear in radians; the smallest is 0.05.
        angle: largest rotation in degrees, of whole degrees from 1 on.
        erasing_p: probability that a part is erased.
        erasing_scale: smallest and largest share of the image's area that is erased.
    """

    crop: int
    weights: tuple[float, ...]
    shear: float
    angle: int
    erasing_p: float
    erasing_scale: tuple[float, float] = (0.02, 0.33)


VERSIONS = {
    "cifar10-weak": Version(10, (0.125,) * 8, 0.15, 10, 0.5),
    "cifar10-strong": Version(10, (0.125,) * 8, 0.15, 10, 1.0),
    "svhn": Version(8, (0.08, 0.08, 0.04, 0.08, 0.04, 0.08, 0.3, 0.3), 0.35, 30, 1.0, (0.02, 0.5)),
}


class IDBH(v2.Transform):  # type: ignore[misc]
    """Flip, CropShift, one change of colour or shape, and random erasing, which delay robust overfitting.

    It replaces the usual crop: set `padding: 0` where the data have one. Their own random flip may stay, because two
    flips with probability 1/2 are distributed as one.

    Args:
        version: settings: "cifar10-strong" (authors: ResNet-18), "cifar10-weak" (WideResNets), or "svhn".

    Raises:
        ValueError: for another version; when called, for images with a side of at most 10 pixels (svhn: 8).

    Example:
        >>> IDBH("cifar10-weak")(torch.zeros(3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([3, 32, 32])

    Paper: Li and Spratling 2023 (arXiv 2301.09879).
    Reference: TreeLLi/DA-Alone-Improves-AT@38b740a.
    Deviates: none known; it is the same to the bit.
    """

    def __init__(self, version: Literal["cifar10-weak", "cifar10-strong", "svhn"] = "cifar10-strong") -> None:
        super().__init__()
        if version not in VERSIONS:
            raise ValueError(f"IDBH has the versions {', '.join(VERSIONS)}, got {version!r}.")
        self.version = version
        self.settings = VERSIONS[version]
        self._flip = v2.RandomHorizontalFlip()
        self._erase = RandomErasing(self.settings.erasing_p, self.settings.erasing_scale)

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Augment an image [c h w], bytes or floats in [0, 1], as 8-bit pixels."""
        h, w = inpt.shape[-2:]
        if min(h, w) <= self.settings.crop:
            raise ValueError(
                f"IDBH cuts off up to {self.settings.crop} pixels, for which an image of {h} x {w} is too small."
            )
        # Pillow's operations are the authors': those on tensors differ by a level, and turn about another centre
        picture = self._flip(F.to_pil_image(F.to_dtype(inpt, torch.uint8, scale=True)))
        picture = color_shape(crop_shift(picture, self.settings.crop), self.settings)
        x: Tensor = F.to_dtype(self._erase(F.pil_to_tensor(picture)), inpt.dtype, scale=True)
        return x


def crop_shift(picture: Any, most: int) -> Any:
    """Cut up to `most` pixels off a picture, and put what is left at a random place of a black one of its size."""
    h, w = F.get_size(picture)
    strength = _integer(0, most)
    across = _integer(0, strength)
    down = strength - across
    left, top = _integer(0, across), _integer(0, down)
    part = F.crop(picture, top, left, h - down, w - across)
    left, top = _integer(0, across), _integer(0, down)
    return F.crop(F.pad(part, [across, down]), top, left, h, w)


def color_shape(picture: Any, settings: Version) -> Any:
    """Change a picture by one of the functions in `ENHANCED`, a shear or a rotation."""
    chosen = bisect_right([*accumulate(settings.weights[:-1])], float(torch.rand(())))
    if chosen < len(ENHANCED):
        name, span = [*ENHANCED.items()][chosen]
        factor = [] if span is None else [_uniform(*span)]
        return getattr(F, name)(picture, *factor)
    if chosen == len(ENHANCED):
        degrees = math.degrees(_uniform(0.05, settings.shear)) * _sign()
        return F.affine(picture, 0.0, [0, 0], 1.0, [degrees, 0.0] if _integer(0, 1) else [0.0, degrees])
    return F.rotate(picture, _integer(1, settings.angle) * _sign())


def _integer(low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, ()))


def _uniform(low: float, high: float) -> float:
    return float(torch.rand(()) * (high - low) + low)


def _sign() -> int:
    return -1 if _integer(0, 1) else 1
