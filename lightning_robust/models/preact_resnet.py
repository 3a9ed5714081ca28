"""Pre-activation ResNets for small images."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

from lightning_robust.models.activation import Activation
from lightning_robust.models.normalize import make_normalize
from lightning_robust.models.padding import Padding, conv
from lightning_robust.models.preact import PreActBlock, PreActBottleneck, PreActNet

_BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class PreActResNet(PreActNet):
    """Pre-activation ResNet for images of 32 x 32 pixels; other sizes work too.

    It begins with a 3x3 convolution of stride 1, without pooling.

    Args:
        depth: 18 or 34 (blocks of two 3x3 convolutions), or 50 (bottleneck blocks).
        num_classes: number of logits; None for 10, and in a recipe for the data's number of classes.
        in_channels: channels of the images; None for 3, and in a recipe for the data's.
        width: channels of the 3x3 convolutions of the first stage; each later stage has twice as many.
        activation: "relu", "silu", "softplus" or "leaky_relu" (slope 0.1).
        shortcut: shortcut where the shape changes: "conv", a 1x1 convolution of the activated input, or "conv3x3", a
            3x3 convolution of the input before batch norm and activation (depth 18 and 34).
        padding: how the 3x3 convolutions of stride 2 pad: "both", one pixel on both sides, or "same", as TensorFlow's
            and JAX's SAME does: images of even size at the bottom and the right alone. DeepMind's net (arXiv
            2010.03593) has "same", `shortcut="conv3x3"` and `activation="silu"`.
        mean: mean of each channel, in pixels in [0, 1], for the normalisation inside the net; None, together with std
            None, for none.
        std: standard deviation of each channel, > 0.
        checkpointing: keep only each block's input for the backward pass and compute the rest again there, which takes
            less memory and more time.

    Raises:
        ValueError: for another depth, activation, shortcut or padding, or statistics that do not fit the channels.

    Example:
        >>> import torch
        >>> net = PreActResNet(depth=18, width=8, num_classes=10)
        >>> net(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Paper: He et al. 2016 (arXiv 1603.05027).
    Reference: locuslab/robust_overfitting@c47a25c; with "same" and "conv3x3", RobustBench/robustbench@78fcc9e
    (dm_wide_resnet.py).
    Deviates: none known; on 32 x 32 pixels the logits are the references' to rounding.
    """

    def __init__(
        self,
        depth: int = 18,
        num_classes: int | None = None,
        in_channels: int | None = None,
        width: int = 64,
        activation: Activation = "relu",
        shortcut: Literal["conv", "conv3x3"] = "conv",
        padding: Padding = "both",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        checkpointing: bool = False,
    ) -> None:
        if depth not in _BLOCKS_PER_STAGE:
            known = ", ".join(map(str, _BLOCKS_PER_STAGE))
            raise ValueError(f"PreActResNet's depth must be one of {known}, got {depth}.")
        num_classes = 10 if num_classes is None else num_classes
        in_channels = 3 if in_channels is None else in_channels
        bottleneck = depth == 50
        if shortcut not in ("conv", "conv3x3") or (bottleneck and shortcut != "conv"):
            raise ValueError(
                f"PreActResNet's shortcut must be conv, or at depth 18 or 34 conv3x3, got {shortcut!r} at {depth}."
            )
        block = partial(PreActBottleneck if bottleneck else PreActBlock, padding=padding)
        if shortcut == "conv3x3":
            block = partial(block, shortcut=partial(conv, size=3, padding=padding), raw_shortcut=True)
        outer = 4 * width if bottleneck else width
        super().__init__(
            normalize=make_normalize(in_channels, mean, std),
            in_channels=in_channels,
            stem=width,
            block=block,
            widths=[outer * 2**stage for stage in range(4)],
            counts=_BLOCKS_PER_STAGE[depth],
            num_classes=num_classes,
            activation=activation,
            checkpointing=checkpointing,
        )
