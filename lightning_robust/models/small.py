"""A small convolutional net for images of 8 to 32 pixels."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_robust.models.activation import Activation, activation_layer
from lightning_robust.models.normalize import make_normalize


class SmallConvNet(nn.Module):
    """Small convolutional net: three 3x3 convolutions with batch norm and activation, average pooling, a linear layer.

    The second and the third convolution have stride 2.

    Args:
        num_classes: number of logits; None for 10, and in a recipe for the data's number of classes.
        in_channels: channels of the images; None for 1, and in a recipe for the data's.
        width: channels of the first convolution; the others have 2 and 4 times as many.
        mean: mean of each channel, in pixels in [0, 1], for the normalisation inside the net; 0.5 if neither mean nor
            std is given.
        std: standard deviation of each channel, > 0; 0.5 if neither mean nor std is given.
        activation: "relu", "silu", "softplus" or "leaky_relu" (slope 0.1).

    Raises:
        ValueError: for an unknown activation, or statistics that do not fit the channels.

    Example:
        >>> import torch
        >>> net = SmallConvNet(num_classes=10, in_channels=1, width=8)
        >>> net(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int | None = None,
        in_channels: int | None = None,
        width: int = 32,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        num_classes = 10 if num_classes is None else num_classes
        in_channels = 1 if in_channels is None else in_channels
        if mean is None and std is None:
            mean = std = [0.5] * in_channels
        self.normalize = make_normalize(in_channels, mean, std)
        self.features = nn.Sequential(
            *self._block(in_channels, width, 1, activation),
            *self._block(width, 2 * width, 2, activation),
            *self._block(2 * width, 4 * width, 2, activation),
        )
        self.head = nn.Linear(4 * width, num_classes)

    @staticmethod
    def _block(c_in: int, c_out: int, stride: int, activation: str) -> list[nn.Module]:
        conv = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(c_out), activation_layer(activation)]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k] for images [b c h w] in [0, 1]."""
        features: Tensor = self.features(self.normalize(x))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits
