"""What is left to do with a training batch once it is on the device."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lightning_robust.data.conversion import bytes_to_float
from lightning_robust.data.on_device_images import OnDeviceImages
from lightning_robust.types import Batch


def finish_on_device(
    batch: Any,
    images: OnDeviceImages | None,
    size: int | None,
    cast: Callable[[Tensor], Any],
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Batch:
    """Gather images that stay on the device, scale bytes to [0, 1], resize, and mix.

    Args:
        batch: (x, y, index), where x are images [b c h w] as bytes or in [0, 1], or, with `images`, the random numbers
            of their augmentation.
        images: the images to gather, if they stay on the device.
        size: height and width to resize to, in pixels; None keeps the size.
        cast: converts scaled bytes to the precision of the training.
        mix: gives mixed images and labels, see `BatchMixing`; None leaves them as they are.

    Returns:
        The batch with x [b c h w] in [0, 1].

    Example:
        >>> import torch
        >>> batch = torch.full((1, 1, 4, 4), 255, dtype=torch.uint8), torch.tensor([3]), torch.tensor([0])
        >>> finish_on_device(batch, images=None, size=2, cast=torch.Tensor.double).x
        tensor([[[[1., 1.],
                  [1., 1.]]]], dtype=torch.float64)
    """
    x, y, *rest = batch
    if images is not None:
        x = images.gather(rest[-1], drawn=x)
    if images is not None or not x.is_floating_point():
        x = cast(bytes_to_float(x))
    if size is not None and x.shape[2:] != (size, size):
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False).clamp_(0, 1)
    if mix is not None:
        x, y = mix(x, y)
    return Batch(x, y, *rest)
