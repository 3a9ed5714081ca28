"""How images enter a net."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_robust.models.normalize import Normalize


class Pixels(nn.Module):
    """A net's first layer: normalisation, and the memory layout that the convolutions are to run in.

    Args:
        channels: of the images.
        mean: of each channel, in pixels in [0, 1]; None, with std None, leaves the pixels as they are.
        std: likewise, > 0.
        channels_last: give the images on in the layout [b h w c], which tensor cores prefer.

    Raises:
        ValueError: for statistics that do not fit the channels, a std that is not > 0, or one of the two alone.
    """

    def __init__(
        self,
        channels: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        if (mean is None) != (std is None) or any(len(s) != channels for s in (mean, std) if s is not None):
            raise ValueError(
                f"mean and std must hold a number for each of the {channels} channels, or both be None; "
                f"got {mean} and {std}."
            )
        self.normalize = nn.Identity() if mean is None or std is None else Normalize(mean, std)
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        """Images [b c h w] in [0, 1] to what the first convolution sees."""
        z: Tensor = self.normalize(x)
        return z.contiguous(memory_format=torch.channels_last) if self.channels_last else z


def lay_out(net: nn.Module, channels_last: bool) -> None:
    """Put the convolutions' weights into the layout that `Pixels` gives the images; values stay the same."""
    if channels_last:
        net.to(memory_format=torch.channels_last)
