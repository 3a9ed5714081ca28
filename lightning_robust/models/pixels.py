"""How images enter a net."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_robust.models.normalize import Normalize


class Pixels(nn.Module):
    """A net's first layer: normalisation, if there is any.

    Args:
        channels: of the images.
        mean: of each channel, in pixels in [0, 1]; None, with std None, leaves the pixels as they are.
        std: likewise, > 0.

    Raises:
        ValueError: for statistics that do not fit the channels, a std that is not > 0, or one of the two alone.
    """

    def __init__(
        self,
        channels: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if (mean is None) != (std is None) or any(len(s) != channels for s in (mean, std) if s is not None):
            raise ValueError(
                f"mean and std must hold a number for each of the {channels} channels, or both be None; "
                f"got {mean} and {std}."
            )
        self.normalize = nn.Identity() if mean is None or std is None else Normalize(mean, std)

    def forward(self, x: Tensor) -> Tensor:
        """Images [b c h w] in [0, 1] to what the first convolution sees."""
        z: Tensor = self.normalize(x)
        return z
