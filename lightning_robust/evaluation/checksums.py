"""Checksums that identify samples by their content."""

import hashlib

import torch
from torch import Tensor


def checksums(x: Tensor, y: Tensor) -> Tensor:
    """Compute a 64-bit checksum [b] of each image and its label.

    Args:
        x: images [b c h w].
        y: labels [b].

    Example:
        >>> x, y = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
        >>> checksums(x, y).unique().numel()
        2
    """
    if not len(x):
        return torch.zeros(0, dtype=torch.int64)
    images = x.detach().cpu().contiguous().flatten(1).view(torch.uint8).numpy()
    found = []
    for image, label in zip(images, y.tolist(), strict=True):
        digest = hashlib.sha1(image, usedforsecurity=False)
        digest.update(label.to_bytes(8, "little", signed=True))
        found.append(int.from_bytes(digest.digest()[:8], "little", signed=True))
    return torch.tensor(found)
