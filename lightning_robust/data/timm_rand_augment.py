"""RandAugment of timm, by the text that its training script takes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from lightning_robust.utils.extras import import_extra


class TimmRandAugment(v2.Transform):  # type: ignore[misc]
    """timm's RandAugment, by the text that its option `--aa` takes.

    torchvision's `RandAugment(num_ops=2, magnitude=9)` differs: its magnitudes do not vary, its operations are always
    applied (timm's with probability 0.5 each), and their list is another.

    This one draws from Python's and NumPy's generators, which the `augmentation` of data modules seeds for each sample.

    Args:
        config: what is done, such as "rand-m9-mstd0.5-inc1": a magnitude of 9 with a standard deviation of 0.5, and
            operations whose strength increases with it.
        fill: what new pixels are filled with, from 0 to 255 for red, green and blue; by default ImageNet's mean.

    Raises:
        ImportError: without timm (the extra `zoo`).
        ValueError: for a text that timm does not take.

    Example:
        >>> TimmRandAugment()(torch.zeros(3, 16, 16, dtype=torch.uint8)).shape
        torch.Size([3, 16, 16])

    Paper: Cubuk et al. 2019 (arXiv 1909.13719).
    Reference: huggingface/pytorch-image-models, `rand_augment_transform` as `create_transform` calls it.
    """

    def __init__(self, config: str = "rand-m9-mstd0.5-inc1", fill: tuple[int, int, int] = (124, 116, 104)) -> None:
        super().__init__()
        self.config = config
        self.fill = fill
        self._built: dict[int, Callable[[Any], Any]] = {}
        self._for_side(224)  # a text that timm does not take is told at once

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Augment an image [c h w] with 1 or 3 channels, bytes or floats in [0, 1], as 8-bit pixels."""
        picture = F.to_pil_image(F.to_dtype(inpt, torch.uint8, scale=True))
        augmented = self._for_side(min(picture.size))(picture.convert("RGB")).convert(picture.mode)
        x: Tensor = F.to_dtype(F.pil_to_tensor(augmented), inpt.dtype, scale=True)
        return x

    def _for_side(self, side: int) -> Callable[[Any], Any]:
        """Return timm's transform for images whose shorter side has so many pixels."""
        if side not in self._built:
            settings = {"translate_const": int(side * 0.45), "img_mean": tuple(self.fill)}
            build = import_extra("timm.data.auto_augment", "zoo").rand_augment_transform
            try:
                built = build(self.config, settings)
            except (AssertionError, ValueError) as error:
                raise ValueError(
                    f"timm has no RandAugment {self.config!r}: give a text such as rand-m9-mstd0.5-inc1."
                ) from error
            for operation in built.ops:
                if operation.name.startswith("Posterize"):
                    operation.aug_fn = partial(_posterize, operation.aug_fn)
            self._built[side] = built
        return self._built[side]


def _posterize(of_timm: Callable[..., Any], picture: Any, bits: int, **settings: Any) -> Any:
    """Keep `bits` bits of each pixel; Pillow since 13 refuses 0, which timm asks for and which made pictures black."""
    return picture.point(lambda value: 0) if bits == 0 else of_timm(picture, bits, **settings)
