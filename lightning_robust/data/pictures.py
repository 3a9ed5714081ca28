"""Decoded images of any depth and colour model, as 8-bit grey or RGB."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LAB")
"""Pillow's modes of images whose channels have at most 8 bits."""

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B")
"""Pillow's modes of 16-bit grey images; of 16-bit colours, Pillow itself keeps the upper 8 bits."""

GREY = ("1", "L", "LA", "La", *SIXTEEN_BITS)
"""Pillow's modes of images without colour."""


def as_eight_bits(image: Image.Image, mode: str | None = None) -> Image.Image:
    """Return an image with 8 bits a channel; grey values of 16 bits are scaled, 65535 to 255.

    Args:
        image: the image.
        mode: "L" (grey) or "RGB"; None keeps the image's own colour model.

    Raises:
        ValueError: for pixels of 32 bits, whose value range is not known.

    Example:
        >>> as_eight_bits(Image.new("1", (4, 4)), "RGB").mode
        'RGB'
    """
    if image.mode in SIXTEEN_BITS:
        levels = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    elif image.mode not in EIGHT_BITS:
        raise ValueError(
            f"has mode {image.mode!r}, whose value range is not known: convert the image to 8 or 16 bits per channel."
        )
    return image if mode is None else image.convert(mode)


def is_grey(image: Any) -> bool:
    """Return whether a Pillow image has no colours.

    Example:
        >>> is_grey(Image.new("L", (4, 4))), is_grey(Image.new("P", (4, 4)))
        (True, False)
    """
    return image.mode in GREY


def all_grey(images: Sequence[Any]) -> bool:
    """Return whether none of these Pillow images has colours; the first one that has ends the search.

    Args:
        images: they are decoded one by one, unless the sequence has a method `is_grey(i)`.

    Example:
        >>> all_grey([Image.new("L", (4, 4)), Image.new("RGB", (4, 4))])
        False
    """
    grey = getattr(images, "is_grey", lambda i: is_grey(images[i]))
    return all(grey(i) for i in range(len(images)))
