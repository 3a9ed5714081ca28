"""Normalisation as a layer of the net, so that images, radii and the allowed range stay in pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Normalise images: `(x - mean) / std` for each channel.

    Args:
        mean: mean of each channel, in pixels in [0, 1].
        std: standard deviation of each channel, > 0.

    Raises:
        ValueError: for different lengths or a std that is not > 0; when called, for images of another number of
            channels, which broadcasting would copy.

    Example:
        >>> Normalize(mean=[0.5], std=[0.25])(torch.ones(1, 1, 1, 2))
        tensor([[[[2., 2.]]]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(s > 0 for s in std):
            raise ValueError(f"mean and std must be equally long and std > 0, got {list(mean)} and {list(std)}.")
        # constants are not part of the state, so that checkpoints fit the net with and without this layer
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised images [b c h w] of images [b c h w] in [0, 1]."""
        check_channels(x, len(self.mean))
        return (x - self.mean) / self.std


class Unnormalized(nn.Module):
    """Return the images unchanged, after checking their number of channels.

    Args:
        channels: channels that the images must have.

    Raises:
        ValueError: when called, for images of another number of channels.

    Example:
        >>> Unnormalized(1)(torch.ones(1, 1, 1, 2))
        tensor([[[[1., 1.]]]])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Return the images [b c h w] themselves."""
        check_channels(x, self.channels)
        return x


def check_channels(x: Tensor, channels: int) -> None:
    """Raise unless images [b c h w] have this number of channels: broadcasting would copy a single one.

    Args:
        x: images [b c h w].
        channels: channels that they must have.

    Raises:
        ValueError: for another number.
    """
    if x.shape[-3] != channels:
        raise ValueError(
            f"The net takes images of {channels} channel{'s' if channels > 1 else ''}, got {x.shape[-3]} (shape "
            f"{tuple(x.shape)}): set its channels to those of the data, or convert the images."
        )


def normalized(net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Sequential:
    """Put a `Normalize` layer in front of a net that expects normalised images.

    Args:
        net: normalised images [b c h w] to logits [b k].
        mean: mean of each channel, in pixels in [0, 1].
        std: standard deviation of each channel, > 0.

    Returns:
        A net that takes images in [0, 1].

    Example:
        >>> net = normalized(nn.Flatten(), mean=[0.5], std=[0.25])
        >>> net(torch.ones(1, 1, 1, 2))
        tensor([[2., 2.]])
    """
    return nn.Sequential(Normalize(mean, std), net)


def average_channels(values: Sequence[float], channels: int) -> list[float]:
    """Return a statistic of each channel for another number of channels: the average over all, for each.

    Args:
        values: the mean, or the standard deviation, of each channel.
        channels: channels of the images.

    Example:
        >>> average_channels([0.25, 0.5, 0.75], 1), average_channels([0.25, 0.5, 0.75], 3)
        ([0.5], [0.25, 0.5, 0.75])
    """
    return list(values) if len(values) == channels else [sum(values) / len(values)] * channels


def make_normalize(channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> nn.Module:
    """Return a net's first layer: `Normalize`, or `Unnormalized` if there are no statistics.

    Args:
        channels: channels of the images.
        mean: mean of each channel, in pixels in [0, 1], or None, together with std None.
        std: standard deviation of each channel, > 0.

    Raises:
        ValueError: for statistics that do not fit the channels, a std that is not > 0, or only one of mean and std.

    Example:
        >>> make_normalize(3, None, None)
        Unnormalized()
    """
    if (mean is None) != (std is None) or any(len(s) != channels for s in (mean, std) if s is not None):
        raise ValueError(
            f"mean and std must hold a number for each of the {channels} channels, or both be None; "
            f"got {mean} and {std}."
        )
    return Unnormalized(channels) if mean is None or std is None else Normalize(mean, std)
