"""Mean and standard deviation of a dataset's channels."""

from typing import Any

import torch


def evenly(n: int, most: int) -> list[int]:
    """Return positions in a dataset of n samples, evenly spaced: all of them, or `most` if there are more.

    Example:
        >>> evenly(10, 4)
        [0, 2, 5, 7]
    """
    kept = min(n, most)
    return [i * n // kept for i in range(kept)]


def channel_statistics(dataset: Any, most: int) -> tuple[list[float], list[float]]:
    """Return the mean and the standard deviation of each channel over all pixels, rounded to four digits.

    They are those of at most `most` images, evenly spaced in the dataset.

    Args:
        dataset: its samples begin with an image [c h w] in [0, 1].
        most: the largest number of images to read.

    Example:
        >>> channel_statistics([(torch.tensor([[[0.0, 1.0]]]), 7)], most=1000)
        ([0.5], [0.5])
    """
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for i in evenly(len(dataset), most):
        pixels = dataset[i][0].double().flatten(1)
        count += pixels.shape[1]
        total, squares = total + pixels.sum(1), squares + pixels.square().sum(1)
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    # a channel that is constant is not divided by zero
    return [round(m, 4) for m in mean.tolist()], [round(s, 4) or 1.0 for s in std.tolist()]
