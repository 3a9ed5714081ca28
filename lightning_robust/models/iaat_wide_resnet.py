"""The wide ResNet that instance adaptive adversarial training (IAAT) was published with."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_robust.models.checkpointing import checkpointed
from lightning_robust.models.normalize import make_normalize


class IAATWideResNet(nn.Module):
    """Wide pre-activation ResNet whose batch norms and shortcuts have no weights.

    The first convolution is as wide as the first stage. Shortcuts between stages are average pooling followed by zero
    channels. A 1x1 convolution with an affine batch norm, averaged over the image, gives the logits.

    Args:
        depth: 6 n + 2 for n blocks in each stage; depth 32 has as many as `WideResNet` with depth 34.
        widen_factor: the stages have 16, 32 and 64 times as many channels.
        num_classes: number of logits; None for 10, and in a recipe for the data's number of classes.
        in_channels: channels of the images; None for 3, and in a recipe for the data's.
        mean: mean of each channel, in pixels in [0, 1], for the normalisation inside the net; None, together with std
            None, for none. The authors use (125.3, 123.0, 113.9) / 255.
        std: standard deviation of each channel, > 0. The authors use (63.0, 62.1, 66.7) / 255.
        checkpointing: keep only each block's input for the backward pass and compute the rest again there, which takes
            less memory and more time.

    Raises:
        ValueError: for another depth, a widen_factor below 1, or statistics that do not fit the channels.

    Example:
        >>> net = IAATWideResNet(depth=8, widen_factor=1, num_classes=10)
        >>> net(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Paper: Balaji et al. 2019 (arXiv 1910.08051).
    Reference: yogeshbalaji/Instance_Adaptive_Adversarial_Training@49f5f14.
    Deviates: none known; the logits are the authors' to rounding.
    """

    def __init__(
        self,
        depth: int = 32,
        widen_factor: int = 10,
        num_classes: int | None = None,
        in_channels: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2 or widen_factor < 1:
            raise ValueError(
                f"IAATWideResNet's depth must be 6 n + 2 (20, 26, 32, ...) and its widen_factor at least 1, "
                f"got {depth} and {widen_factor}."
            )
        num_classes = 10 if num_classes is None else num_classes
        in_channels = 3 if in_channels is None else in_channels
        self.normalize = make_normalize(in_channels, mean, std)
        self.checkpointing = checkpointing
        c = 16 * widen_factor
        self.blocks = nn.ModuleList()
        self.stem = nn.Conv2d(in_channels, c, 3, padding=1, bias=False)
        for stage in range(3):
            self.blocks.extend(_Block(c * 2**stage, halve=stage > 0 and i == 0) for i in range((depth - 2) // 6))
        self.bn = nn.BatchNorm2d(4 * c, affine=False)
        self.head = nn.Sequential(nn.Conv2d(4 * c, num_classes, 1, bias=False), nn.BatchNorm2d(num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k] for images [b c h w] in [0, 1]."""
        z: Tensor = self.stem(self.normalize(x))
        for block in self.blocks:
            z = checkpointed(block, z) if self.checkpointing else block(z)
        logits: Tensor = self.head(F.relu(self.bn(z)))
        return logits.mean((2, 3))


class _Block(nn.Module):
    """Residual block with c output channels; `halve` doubles the channels and halves height and width."""

    def __init__(self, c: int, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        c_in = c // 2 if halve else c
        self.bn1 = nn.BatchNorm2d(c_in, affine=False)
        self.conv1 = nn.Conv2d(c_in, c, 3, stride=2 if halve else 1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c, affine=False)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv1(F.relu(self.bn1(x)))
        z = self.conv2(F.relu(self.bn2(z)))
        if self.halve:
            x = F.avg_pool2d(x, 3, stride=2, padding=1)
            x = torch.cat([x, torch.zeros_like(x)], 1)
        return torch.add(x, z)
