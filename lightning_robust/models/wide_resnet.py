"""Wide ResNets for small images."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import nn

from lightning_robust.models.activation import Activation
from lightning_robust.models.normalize import make_normalize
from lightning_robust.models.padding import Padding
from lightning_robust.models.preact import PoolShortcut, PreActBlock, PreActNet


class WideResNet(PreActNet):
    """Wide pre-activation ResNet with three stages for images of 32 x 32 pixels; other sizes work too.

    Args:
        depth: 6 n + 4 for n blocks in each stage: 28, 34, 70, ... (`IAATWideResNet` counts differently.)
        widen_factor: the stages have 16, 32 and 64 times as many channels.
        num_classes: number of logits; None for 10, and in a recipe for the data's number of classes.
        in_channels: channels of the images; None for 3, and in a recipe for the data's.
        activation: "relu", "silu", "softplus" or "leaky_relu" (slope 0.1).
        shortcut: shortcut where the shape changes: "conv", a 1x1 convolution, or "pool", average pooling and zero
            channels on both sides. The net of EMR has "pool" and `activation="leaky_relu"`.
        padding: how the 3x3 convolutions of stride 2 pad: "both", one pixel on both sides, or "same", as TensorFlow's
            and JAX's SAME does: images of even size at the bottom and the right alone. DeepMind's nets, on which
            training with generated images builds (arXiv 2010.03593, 2302.04638), have "same" and `activation="silu"`.
        mean: mean of each channel, in pixels in [0, 1], for the normalisation inside the net; None, together with std
            None, for none.
        std: standard deviation of each channel, > 0.
        checkpointing: keep only each block's input for the backward pass and compute the rest again there, which takes
            less memory and more time.

    Raises:
        ValueError: for another depth, activation, shortcut or padding, a widen_factor below 1, or statistics that do
            not fit the channels.

    Example:
        >>> import torch
        >>> net = WideResNet(depth=10, widen_factor=1, num_classes=10)
        >>> net(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Paper: Zagoruyko & Komodakis 2016 (arXiv 1605.07146).
    Reference: yaodongyu/TRADES@6e8e11b, without the stage `sub_block1` that it builds and never runs; with "pool",
    ziquanliu/Effective_Margin_Reg@c3e041c; with "same", RobustBench/robustbench@78fcc9e (dm_wide_resnet.py).
    Deviates: none known; on 32 x 32 pixels the logits are the references' to rounding. With "same" and images of odd
    size the reference fails, since its shortcuts do not fit.
    """

    def __init__(
        self,
        depth: int = 28,
        widen_factor: int = 10,
        num_classes: int | None = None,
        in_channels: int | None = None,
        activation: Activation = "relu",
        shortcut: Literal["conv", "pool"] = "conv",
        padding: Padding = "both",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        checkpointing: bool = False,
    ) -> None:
        if depth < 10 or depth % 6 != 4 or widen_factor < 1:
            raise ValueError(
                f"WideResNet's depth must be 6 n + 4 (16, 28, 34, 40, 70, ...) and its widen_factor at least 1, "
                f"got {depth} and {widen_factor}."
            )
        if shortcut not in ("conv", "pool"):
            raise ValueError(f"Unknown shortcut {shortcut!r}: choose conv or pool.")
        num_classes = 10 if num_classes is None else num_classes
        in_channels = 3 if in_channels is None else in_channels
        block = PreActBlock if shortcut == "conv" else partial(PreActBlock, shortcut=PoolShortcut)
        super().__init__(
            normalize=make_normalize(in_channels, mean, std),
            in_channels=in_channels,
            stem=16,
            block=partial(block, padding=padding),
            widths=[16 * widen_factor * 2**stage for stage in range(3)],
            counts=[(depth - 4) // 6] * 3,
            num_classes=num_classes,
            activation=activation,
            checkpointing=checkpointing,
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.head.bias)
