"""Stems of small convolutions for timm's ConvNeXts and vision transformers, in place of one that cuts patches."""

from typing import Any

from torch import nn

from lightning_robust.utils.extras import import_extra

VIT_CHANNELS = 48
"""Channels of the first convolution in the stem of a vision transformer; each further one has twice as many."""

WIDE = 128
"""Output channels from which on the stem of a ConvNeXt has a third convolution, as in ConvNeXt-B and -L."""


def use_conv_stem(name: str, net: Any, in_channels: int) -> None:
    """Let a net begin with 3x3 convolutions of stride 2, each followed by layer norm and GELU.

    They replace the convolution that cuts the image into patches, and reduce the image as much. With d output channels,
    a ConvNeXt's stem has two convolutions, to d / 2 and d channels; for d >= 128 it has three, to d / 2, 3/4 d and d
    channels, the last of stride 1. The stem of a vision transformer with patches of 2^n pixels has n convolutions, to
    48, 96, 192, ... channels, and a 1x1 convolution to d. Weights are initialised as torch does.

    Args:
        name: the net's name, for messages.
        net: a ConvNeXt or VisionTransformer of timm, which is changed.
        in_channels: channels of the images.

    Raises:
        ValueError: for another net, or patches of a size that is not 4 (ConvNeXt) or a power of two above 1.

    Example:
        >>> import timm
        >>> net = timm.create_model("convnext_atto")
        >>> use_conv_stem("convnext_atto", net, in_channels=3)
        >>> [layer for layer in net.stem if isinstance(layer, nn.Conv2d)][1]
        Conv2d(20, 40, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))

    Paper: Singh, Croce & Hein 2023 (arXiv 2303.01870).
    Reference: nmndeep/revisiting-at@d7166c0, utils_architecture.py.
    Deviates: none known; the logits are the reference's to rounding.
    """
    timm = import_extra("timm", "zoo")
    if isinstance(net, timm.models.ConvNeXt):
        cut = net.stem[0]
        _check(name, cut, cut.stride == (4, 4), "4 x 4 pixels")
        d = cut.out_channels
        widths = [d // 2, d * 3 // 4, d] if d >= WIDE else [d // 2, d]
        net.stem = nn.Sequential(*_blocks(timm, [in_channels, *widths], strides=[2, 2, 1]))
    elif isinstance(net, timm.models.VisionTransformer):
        cut = net.patch_embed.proj
        side = cut.kernel_size[0] if isinstance(cut, nn.Conv2d) else 0
        power = side >= 2 and side & (side - 1) == 0 and cut.kernel_size == cut.stride == (side, side)
        _check(name, cut, power, "a power of two pixels a side, such as 16 x 16")
        count = side.bit_length() - 1
        widths = [VIT_CHANNELS * 2**i for i in range(count)]
        blocks = _blocks(timm, [in_channels, *widths], strides=[2] * count)
        net.patch_embed.proj = nn.Sequential(*blocks, nn.Conv2d(widths[-1], cut.out_channels, 1))
    else:
        raise ValueError(
            f"stem='conv' is defined for ConvNeXts and vision transformers of timm, and {name!r} is a "
            f"{type(net).__name__}: leave stem out."
        )


def _blocks(timm: Any, widths: list[int], strides: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for c_in, c_out, stride in zip(widths, widths[1:], strides, strict=False):
        layers += [nn.Conv2d(c_in, c_out, 3, stride, padding=1), timm.layers.LayerNorm2d(c_out), nn.GELU()]
    return layers


def _check(name: str, cut: nn.Module, fits: bool, patches: str) -> None:
    if not (isinstance(cut, nn.Conv2d) and fits):
        raise ValueError(f"stem='conv' takes the place of patches of {patches}, but {name!r} begins with {cut}.")
