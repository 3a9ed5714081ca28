"""Building blocks of pre-activation residual nets, where batch norm and activation come before each convolution."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_robust.models.activation import activation_layer
from lightning_robust.models.checkpointing import checkpointed
from lightning_robust.models.padding import Padding, conv


def _projection(c_in: int, c_out: int, stride: int) -> nn.Module:
    return conv(c_in, c_out, 1, stride)


class PreActBlock(nn.Module):
    """Residual block of two 3x3 convolutions.

    Where the shape changes, the shortcut takes the activated input, or the input itself if `raw_shortcut`.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        stride: stride of the first convolution and of the shortcut.
        activation: name of the activation (see `activation_layer`).
        shortcut: builds the shortcut from (c_in, c_out, stride=stride); a 1x1 convolution by default.
        padding: how a 3x3 convolution of stride 2 pads (see `Padding`).
        raw_shortcut: whether the shortcut takes the input as it is, before batch norm and activation.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        stride: int,
        activation: str,
        shortcut: Callable[..., nn.Module] = _projection,
        padding: Padding = "both",
        raw_shortcut: bool = False,
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = conv(c_in, c_out, 3, stride, padding)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = conv(c_out, c_out, 3)
        self.shortcut = shortcut(c_in, c_out, stride=stride) if stride != 1 or c_in != c_out else None
        self.raw_shortcut = raw_shortcut
        self.activation = activation_layer(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output [b c_out h/stride w/stride], rounded up, for an input [b c_in h w]."""
        z = self.activation(self.bn1(x))
        skip: Tensor = x if self.shortcut is None else self.shortcut(x if self.raw_shortcut else z)
        z = self.activation(self.bn2(self.conv1(z)))
        return torch.add(skip, self.conv2(z))


class PreActBottleneck(nn.Module):
    """Residual block of a 1x1, a 3x3 and a 1x1 convolution; the inner ones have a quarter of the channels.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        stride: stride of the 3x3 convolution and of the shortcut.
        activation: name of the activation (see `activation_layer`).
        padding: how a 3x3 convolution of stride 2 pads (see `Padding`).
    """

    def __init__(self, c_in: int, c_out: int, stride: int, activation: str, padding: Padding = "both") -> None:
        super().__init__()
        c = c_out // 4
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = conv(c_in, c, 1)
        self.bn2 = nn.BatchNorm2d(c)
        self.conv2 = conv(c, c, 3, stride, padding)
        self.bn3 = nn.BatchNorm2d(c)
        self.conv3 = conv(c, c_out, 1)
        self.shortcut = _projection(c_in, c_out, stride) if stride != 1 or c_in != c_out else None
        self.activation = activation_layer(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output [b c_out h/stride w/stride], rounded up, for an input [b c_in h w]."""
        z = self.activation(self.bn1(x))
        skip: Tensor = x if self.shortcut is None else self.shortcut(z)
        z = self.activation(self.bn2(self.conv1(z)))
        z = self.activation(self.bn3(self.conv2(z)))
        return torch.add(skip, self.conv3(z))


class PoolShortcut(nn.Module):
    """Shortcut without weights: average pooling, then zero channels added on both sides.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        stride: size and stride of the pooling.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(stride, ceil_mode=True)
        self.extra = (c_out - c_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return the output [b c_out h/stride w/stride], rounded up, for an input [b c_in h w]."""
        return F.pad(self.pool(x), (0, 0, 0, 0, self.extra, self.extra))


class PreActNet(nn.Module):
    """Pre-activation residual net: a 3x3 convolution, stages of blocks, batch norm, average pooling, a linear layer.

    Args:
        normalize: first layer, see `make_normalize`.
        in_channels: channels of the images.
        stem: channels of the first convolution.
        block: builds a block from (c_in, c_out, stride, activation).
        widths: output channels of each stage; every stage after the first halves height and width.
        counts: number of blocks in each stage.
        num_classes: number of logits.
        activation: name of the activation (see `activation_layer`).
        checkpointing: keep only the blocks' inputs for the backward pass (see `checkpointed`).
    """

    def __init__(
        self,
        normalize: nn.Module,
        in_channels: int,
        stem: int,
        block: Callable[[int, int, int, str], nn.Module],
        widths: Sequence[int],
        counts: Sequence[int],
        num_classes: int,
        activation: str,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.checkpointing = checkpointing
        self.stem = conv(in_channels, stem, 3)
        self.blocks = nn.ModuleList()
        c = stem
        for stage, (width, count) in enumerate(zip(widths, counts, strict=True)):
            for i in range(count):
                self.blocks.append(block(c, width, 2 if stage and not i else 1, activation))
                c = width
        self.bn = nn.BatchNorm2d(c)
        self.activation = activation_layer(activation)
        self.head = nn.Linear(c, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k] for images [b c h w] in [0, 1]."""
        z: Tensor = self.stem(self.normalize(x))
        for block in self.blocks:
            z = checkpointed(block, z) if self.checkpointing else block(z)
        z = self.activation(self.bn(z))
        logits: Tensor = self.head(z.mean((2, 3)))
        return logits
