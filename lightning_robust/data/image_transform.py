"""From a stored image to a tensor of one shape, with augmentation on the way."""

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from lightning_robust.data.conversion import bytes_to_float, to_byte_tensor, to_float_tensor
from lightning_robust.data.pictures import as_eight_bits, is_grey


class ImageTransform:
    """Bring images to one colour model and size, augment them, and convert them to tensors [c h w] in [0, 1].

    Args:
        shape: channels, height and width of the result. Pillow images are converted to grey or RGB.
        resize: whether the shorter side of images of another size is resized and their centre cropped; otherwise they
            are refused.
        before: transforms of torchvision that augment an image before it is resized.
        after: likewise, once it is resized.
        keep_colours: whether to refuse a Pillow image in colour where the result is grey.

    Raises:
        ValueError: when called, for an image of another size or number of channels, or whose colours would be lost.

    Example:
        >>> ImageTransform((3, 8, 8), resize=True)(Image.new("L", (20, 30))).shape
        torch.Size([3, 8, 8])
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        resize: bool,
        before: Sequence[Callable[[Any], Any]] = (),
        after: Sequence[Callable[[Any], Any]] = (),
        keep_colours: bool = False,
    ) -> None:
        self.shape = shape
        self.resize = resize
        self.before = before
        self.after = after
        self.keep_colours = keep_colours

    def __call__(self, image: Any) -> Tensor:
        """Return the image, of Pillow or an array [h w] or [h w c], as a tensor [c h w] in [0, 1]."""
        c, h, w = self.shape
        if isinstance(image, Image.Image):
            if self.keep_colours and c == 1 and not is_grey(image):
                raise ValueError(
                    "An image is in colour but those for training are grey: set the data's `channels` to 3 (RGB) or 1 "
                    "(grey), to which all are converted."
                )
            image = as_eight_bits(image, "L" if c == 1 else "RGB")
        else:
            image = to_byte_tensor(image)
        for transform in self.before:
            image = transform(image)
        if self.resize and tuple(F.get_size(image)) != (h, w):
            image = F.center_crop(F.resize(image, [min(h, w)]), [h, w])
        for transform in self.after:
            image = transform(image)
        x = to_float_tensor(image) if isinstance(image, Image.Image) else bytes_to_float(image)
        if tuple(x.shape) != self.shape:
            raise ValueError(
                f"An image has the shape {list(x.shape)} where the others have {list(self.shape)}: set the data's "
                "`size` to the height and width that all are brought to."
            )
        return x
