"""How a net that was made for one size of images takes others."""

from typing import Literal, NamedTuple, TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

Resizing: TypeAlias = int | Literal["auto"] | None
"""Height and width in pixels to which a net resizes its images; "auto" decides by their size, None keeps theirs."""

SMALL = 64
"""Images of up to this height and width are small: a net for ImageNet would reduce them to nothing."""


class Fit(NamedTuple):
    """What a net is given so that it takes images of a size: another stem, or a first layer that resizes them.

    Args:
        small_images: whether it begins with the stem for small images.
        resize: height and width in pixels that images are resized to; None if they keep theirs.
    """

    small_images: bool
    resize: int | None


class Resize(nn.Module):
    """Resize images to a height and width by linear interpolation, through which gradients pass.

    Larger images are smoothed, as by `torch.nn.functional.interpolate(..., antialias=True)`.

    Args:
        size: height and width in pixels.

    Example:
        >>> import torch
        >>> Resize(32)(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Return images [b c size size] of images [b c h w]; those that have the size already as they are."""
        if x.shape[-2:] == (self.size, self.size):
            return x
        return F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=max(x.shape[-2:]) > self.size)

    def extra_repr(self) -> str:
        """Return the size, for the net's printed form."""
        return f"size={self.size}"


def fit_to_images(
    name: str,
    image_size: int | None,
    small_images: bool | None,
    resize: Resizing,
    *,
    resnet: bool,
    trained: bool,
    made_for: int,
    fixed: bool,
) -> Fit:
    """Decide how a net takes images of a size, from what was asked for and what it was made for.

    What is left open is decided so: on small images (up to 64 pixels) a ResNet without trained weights begins with a
    stem for them. Other nets resize small images to the size that they were made for, as do nets that take no other
    size (such as most vision transformers).

    Args:
        name: the net's name, for messages.
        image_size: height and width of the images in pixels; None leaves the net as it is.
        small_images: whether the stem was asked for; None leaves it open.
        resize: the size that was asked for; "auto" leaves it open.
        resnet: whether there is a stem for small images.
        trained: whether the weights are trained: they were trained behind the net's own stem.
        made_for: height and width of the images that the net was made for, in pixels.
        fixed: whether it takes no other.

    Raises:
        ValueError: for sizes below 1, or a stem that there is not.

    Example:
        >>> settings = {"resnet": False, "trained": False, "made_for": 224, "fixed": True}
        >>> fit_to_images("vit_b_16", 32, None, "auto", **settings)
        Fit(small_images=False, resize=224)
    """
    for what, size in {"image_size": image_size, "resize": resize}.items():
        if not (size is None or size == "auto" or (isinstance(size, int) and size >= 1)):
            raise ValueError(f"{what} must be a number of pixels, at least 1, got {size!r}.")
    if small_images and not resnet:
        raise ValueError(
            f"small_images is defined for ResNets only, not for {name}: leave it out and enlarge the images (resize), "
            "or take PreActResNet or WideResNet."
        )
    small = image_size is not None and image_size <= SMALL
    stem = small and resnet and not trained and resize == "auto" if small_images is None else small_images
    if resize != "auto":
        return Fit(stem, resize)
    if image_size is None or stem or image_size == made_for:
        return Fit(stem, None)
    return Fit(stem, made_for if fixed or (small and image_size < made_for) else None)
