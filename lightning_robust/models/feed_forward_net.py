"""A feed-forward net: linear layers on the flattened image."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from lightning_robust.models.normalize import make_normalize


class FeedForwardNet(nn.Module):
    """Linear layers with ReLU between them, on the flattened image.

    Args:
        num_classes: number of logits; None for 10, and in a recipe for the data's number of classes.
        in_channels: channels of the images; None for 1, and in a recipe for the data's.
        image_size: height and width of the images in pixels; None for 28, and in a recipe for the data's.
        hidden: width of each hidden layer.
        mean: mean of each channel, in pixels in [0, 1], for the normalisation inside the net; None, together with std
            None, for no normalisation.
        std: standard deviation of each channel, > 0.

    Raises:
        ValueError: for statistics that do not fit the channels.

    Example:
        >>> import torch
        >>> FeedForwardNet(num_classes=10, in_channels=1, image_size=28)(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int | None = None,
        in_channels: int | None = None,
        image_size: int | None = None,
        hidden: Sequence[int] = (512, 512),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        num_classes = 10 if num_classes is None else num_classes
        in_channels = 1 if in_channels is None else in_channels
        image_size = 28 if image_size is None else image_size
        self.normalize = make_normalize(in_channels, mean, std)
        widths = [in_channels * image_size**2, *hidden]
        layers = [layer for narrow, wide in pairwise(widths) for layer in (nn.Linear(narrow, wide), nn.ReLU())]
        self.features = nn.Sequential(nn.Flatten(), *layers)
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k] for images [b c h w] in [0, 1]."""
        logits: Tensor = self.head(self.features(self.normalize(x)))
        return logits
