"""The first convolution of a net: other channels, and a stem for small images."""

import math
from typing import Any

import torch
from torch import Tensor, nn


def set_in_channels(net: nn.Module, in_channels: int, trained: bool) -> None:
    """Replace a net's first convolution by one that takes images of another number of channels.

    Args:
        net: the net, which is changed.
        in_channels: channels of the images.
        trained: whether the weights are trained: they are then kept, see `fit_channels`. Otherwise new ones are drawn
            from a normal distribution with the standard deviation of the old ones.

    Raises:
        ValueError: for a net that does not begin with a plain convolution.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        >>> set_in_channels(net, 1, trained=False)
        >>> net[0]
        Conv2d(1, 8, kernel_size=(3, 3), stride=(1, 1))
    """
    path, old = next(((path, m) for path, m in net.named_modules() if isinstance(m, nn.Conv2d)), ("", None))
    if old is None or old.groups != 1:
        raise ValueError(f"{type(net).__name__} does not begin with a convolution: its channels cannot be changed.")
    if old.in_channels == in_channels:
        return
    settings: dict[str, Any] = {name: getattr(old, name) for name in ("stride", "padding", "dilation", "padding_mode")}
    new = nn.Conv2d(in_channels, old.out_channels, old.kernel_size, bias=old.bias is not None, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        drawn = torch.randn_like(new.weight) * old.weight.std()
        new.weight.copy_(fit_channels(old.weight, in_channels) if trained else drawn)
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    net.set_submodule(path, new)


def fit_channels(weight: Tensor, in_channels: int) -> Tensor:
    """Return a trained convolution's weights for another number of channels, as timm fits them.

    For one channel they are summed over the channels, so that a grey image gives what its copies in all channels gave.
    Otherwise they are repeated, and scaled so that the sum over the channels stays the same on average.

    Args:
        weight: weights [c_out c h w].
        in_channels: channels of the images.

    Example:
        >>> fit_channels(torch.ones(1, 3, 1, 1), 1).flatten(), fit_channels(torch.ones(1, 3, 1, 1), 6).flatten()
        (tensor([3.]), tensor([0.5000, 0.5000, 0.5000, 0.5000, 0.5000, 0.5000]))
    """
    c = weight.shape[1]
    if in_channels == c:
        return weight
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    return weight.repeat(1, math.ceil(in_channels / c), 1, 1)[:, :in_channels] * (c / in_channels)


def use_small_stem(net: Any, in_channels: int) -> None:
    """Let a ResNet begin as it does for CIFAR: with a 3x3 convolution of stride 1, and without max pooling.

    Args:
        net: a ResNet of torchvision or timm, which is changed.
        in_channels: channels of the images.
    """
    last = [module for module in net.conv1.modules() if isinstance(module, nn.Conv2d)][-1]  # timm's stem may have three
    net.conv1 = nn.Conv2d(in_channels, last.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
