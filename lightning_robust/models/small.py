"""A small convolutional net for images of 8 to 32 pixels."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_robust.models.pixels import Pixels


class SmallConvNet(nn.Module):
    """Three 3x3 convolutions with batch norm (the last two with stride 2), global average, one linear layer.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        width: channels of the first convolution; the others have 2 and 4 times as many.
        mean: pixel mean of each channel, for the normalisation inside the net; 0.5 where std is not given either.
        std: pixel standard deviation of each channel, likewise.

    Raises:
        ValueError: for statistics that do not fit the channels.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        width: int = 32,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if mean is None and std is None:
            mean = std = [0.5] * in_channels
        self.pixels = Pixels(in_channels, mean, std)
        self.features = nn.Sequential(
            *self._block(in_channels, width, stride=1),
            *self._block(width, 2 * width, stride=2),
            *self._block(2 * width, 4 * width, stride=2),
        )
        self.head = nn.Linear(4 * width, num_classes)

    @staticmethod
    def _block(c_in: int, c_out: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(c_out), nn.ReLU()]

    def forward(self, x: Tensor) -> Tensor:
        """Images [b c h w] in [0, 1] to logits [b k]."""
        logits: Tensor = self.head(self.features(self.pixels(x)).mean((2, 3)))
        return logits
