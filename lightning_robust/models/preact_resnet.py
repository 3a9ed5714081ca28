"""Pre-activation ResNets for small images."""

from collections.abc import Sequence

from lightning_robust.models.activation import Activation
from lightning_robust.models.pixels import Pixels
from lightning_robust.models.preact import PreActBlock, PreActBottleneck, PreActNet

_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class PreActResNet(PreActNet):
    """A pre-activation ResNet without pooling at its start, made for images of 32 pixels; any size will do.

    Args:
        depth: 18 or 34 (two 3x3 convolutions a block), or 50 (bottlenecks).
        num_classes: number of logits.
        in_channels: channels of the images.
        width: channels of the first stage (of its 3x3 convolutions); each later stage has twice as many.
        activation: "relu", "silu", "softplus" or "leaky_relu" (slope 0.1).
        mean: of each channel, in pixels in [0, 1], for the normalisation inside the net; None, with std None: none.
        std: likewise, > 0.
        checkpointing: keep only each block's input for the gradient and compute the rest again: less memory, more time.

    Raises:
        ValueError: for another depth or activation, or statistics that do not fit the channels.

    Paper: He et al. 2016 (arXiv 1603.05027).
    Reference: locuslab/robust_overfitting@c47a25c.
    Deviates: none known; on 32 pixels the logits are the reference's to rounding.
    """

    def __init__(
        self,
        depth: int = 18,
        num_classes: int = 10,
        in_channels: int = 3,
        width: int = 64,
        activation: Activation = "relu",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        checkpointing: bool = False,
    ) -> None:
        if depth not in _STAGES:
            raise ValueError(f"PreActResNet's depth must be one of {', '.join(map(str, _STAGES))}, got {depth}.")
        pixels = Pixels(in_channels, mean, std)
        block, outer = (PreActBottleneck, 4 * width) if depth == 50 else (PreActBlock, width)
        widths, counts = [outer * 2**stage for stage in range(4)], _STAGES[depth]
        super().__init__(pixels, in_channels, width, block, widths, counts, num_classes, activation, checkpointing)
