"""What pre-activation residual nets are made of: batch norm and activation come before each convolution."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_robust.models.activation import activation_layer
from lightning_robust.models.checkpointing import checkpointed
from lightning_robust.models.pixels import Pixels


class PreActBlock(nn.Module):
    """Two 3x3 convolutions; where the shape changes, the shortcut starts from the activated input.

    Args:
        c_in: channels that come in.
        c_out: channels that go out.
        stride: of the first convolution and of the shortcut.
        activation: its name.
        shortcut: makes the shortcut from (c_in, c_out, stride); a 1x1 convolution by default.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        stride: int,
        activation: str,
        shortcut: Callable[[int, int, int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(c_in), _conv(c_in, c_out, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(c_out), _conv(c_out, c_out, 3)
        self.shortcut = (shortcut or _project)(c_in, c_out, stride) if stride != 1 or c_in != c_out else None
        self.activation = activation_layer(activation)

    def forward(self, x: Tensor) -> Tensor:
        """[b c_in h w] to [b c_out h/stride w/stride], rounded up."""
        z = self.activation(self.bn1(x))
        kept: Tensor = x if self.shortcut is None else self.shortcut(z)
        return torch.add(kept, self.conv2(self.activation(self.bn2(self.conv1(z)))))


class PreActBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the inner ones with a quarter of the channels; arguments as for `PreActBlock`."""

    def __init__(self, c_in: int, c_out: int, stride: int, activation: str) -> None:
        super().__init__()
        c = c_out // 4
        self.bn1, self.conv1 = nn.BatchNorm2d(c_in), _conv(c_in, c, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(c), _conv(c, c, 3, stride)
        self.bn3, self.conv3 = nn.BatchNorm2d(c), _conv(c, c_out, 1)
        self.shortcut = _project(c_in, c_out, stride) if stride != 1 or c_in != c_out else None
        self.activation = activation_layer(activation)

    def forward(self, x: Tensor) -> Tensor:
        """[b c_in h w] to [b c_out h/stride w/stride], rounded up."""
        z = self.activation(self.bn1(x))
        kept: Tensor = x if self.shortcut is None else self.shortcut(z)
        inner = self.conv2(self.activation(self.bn2(self.conv1(z))))
        return torch.add(kept, self.conv3(self.activation(self.bn3(inner))))


class PoolShortcut(nn.Module):
    """A shortcut without weights: average pooling, and zero channels on both sides."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(stride, ceil_mode=True)
        self.extra = (c_out - c_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """[b c_in h w] to [b c_out h/stride w/stride], rounded up."""
        return F.pad(self.pool(x), (0, 0, 0, 0, self.extra, self.extra))


class PreActNet(nn.Module):
    """A 3x3 convolution, blocks, batch norm and activation, the mean over the image, one linear layer.

    Args:
        pixels: its first layer.
        in_channels: channels of the images.
        stem: channels of the first convolution.
        block: makes a block from (c_in, c_out, stride, activation).
        widths: channels of each stage; each after the first halves the image.
        counts: blocks of each stage.
        num_classes: number of logits.
        activation: its name.
        checkpointing: keep only the blocks' inputs for the gradient (see `checkpointed`).
    """

    def __init__(
        self,
        pixels: Pixels,
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
        self.pixels, self.checkpointing = pixels, checkpointing
        self.stem, self.blocks, c = _conv(in_channels, stem, 3), nn.ModuleList(), stem
        for stage, (width, count) in enumerate(zip(widths, counts, strict=True)):
            for i in range(count):
                self.blocks.append(block(c, width, 2 if stage and not i else 1, activation))
                c = width
        self.bn, self.activation = nn.BatchNorm2d(c), activation_layer(activation)
        self.head = nn.Linear(c, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [b c h w] in [0, 1] to logits [b k]."""
        z: Tensor = self.stem(self.pixels(x))
        for block in self.blocks:
            z = checkpointed(block, z) if self.checkpointing else block(z)
        logits: Tensor = self.head(self.activation(self.bn(z)).mean((2, 3)))
        return logits


def _conv(c_in: int, c_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, size, stride=stride, padding=size // 2, bias=False)


def _project(c_in: int, c_out: int, stride: int) -> nn.Module:
    return _conv(c_in, c_out, 1, stride)
