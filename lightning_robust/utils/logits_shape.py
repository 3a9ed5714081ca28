"""The shape and type that a net's logits must have, and what to do about nets whose outputs have others."""

from torch import Tensor


def check_logits_shape(logits: Tensor, n: int) -> None:
    """Raise unless logits are floating-point and [n k] with at least two classes.

    Args:
        logits: what the net returned.
        n: number of images.

    Raises:
        TypeError: for outputs that are not floating-point.
        ValueError: for another shape.

    Example:
        >>> import torch
        >>> check_logits_shape(torch.zeros(4, 1), n=4)
        Traceback (most recent call last):
        ...
        ValueError: The net must give logits [b k] for 4 images, got shape (4, 1), as for two classes ...
    """
    shape = tuple(logits.shape)
    if not logits.is_floating_point():
        raise TypeError(f"The net must give floating-point logits [b k], not classes or the like; got {logits.dtype}.")
    if shape in ((n,), (n, 1)):
        raise ValueError(
            f"The net must give logits [b k] for {n} images, got shape {shape}, as for two classes behind a sigmoid: "
            "let it return torch.stack([torch.zeros_like(z), z], 1) of the values z [b] before the sigmoid."
        )
    if len(shape) == 2 and n and shape[0] > n and not shape[0] % n:
        raise ValueError(
            f"The net must give logits [b k] for {n} images, got shape {shape}, {shape[0] // n} rows for each image: "
            "wrap it to return what it decides by, such as their mean over the members of an ensemble."
        )
    if len(shape) == 3 and n in shape[:2]:
        raise ValueError(
            f"The net must give logits [b k] for {n} images, got shape {shape}: wrap it to return one row for each "
            "image, such as the mean over the members of an ensemble or over an image's parts."
        )
    if len(shape) != 2 or shape[0] != n:
        raise ValueError(f"The net must give logits [b k] for {n} images, got shape {shape}.")
