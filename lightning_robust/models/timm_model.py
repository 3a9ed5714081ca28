"""Classification nets of timm, chosen by name."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightning_robust.models.normalize import make_normalize
from lightning_robust.utils.extras import import_extra
from lightning_robust.utils.messages import describe_error, did_you_mean


class TimmModel(nn.Module):
    """A classification net of timm, for any number of classes, with normalisation inside.

    A vision transformer for images of 32 x 32 pixels has `name="vit_tiny_patch16_224"` and
    `options={"img_size": 32, "patch_size": 4}`.

    Args:
        name: timm's name of the net, with or without the tag of its weights.
        num_classes: number of logits.
        pretrained: download pretrained weights; the last layer is initialised anew if they have another number of
            classes.
        in_channels: channels of the images.
        mean: mean of each channel, in pixels in [0, 1], for the normalisation inside the net; None, together with std
            None, for that of the pretrained weights, or none without them.
        std: standard deviation of each channel, > 0.
        options: further arguments of `timm.create_model`.

    Raises:
        ImportError: without the package timm (the extra `zoo`).
        ValueError: for a name that timm does not have, options or weights with which timm cannot build the net, or
            statistics that do not fit the channels.

    Example:
        >>> import torch
        >>> net = TimmModel("resnet10t", num_classes=10)
        >>> net(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        name: str,
        num_classes: int = 10,
        pretrained: bool = False,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        timm = import_extra("timm", "zoo")
        if not timm.is_model(name):
            raise ValueError(f"timm has no net {name!r}{did_you_mean(name, timm.list_models())}")
        required = {"num_classes": num_classes, "in_chans": in_channels}
        try:
            self.net: nn.Module = timm.create_model(name, pretrained=pretrained, **required, **(options or {}))
        except Exception as error:  # timm raises many kinds, and downloads add those of the connection and the disk
            from_hub = (
                " Its weights are downloaded once: connect, or look at timm's name of them." if pretrained else ""
            )
            raise ValueError(
                f"timm could not build {name!r} with {options or {}} ({describe_error(error)}){from_hub}"
            ) from error
        if pretrained and mean is None and std is None:
            config: Any = self.net.pretrained_cfg
            mean, std = config["mean"], config["std"]
            if len(mean) != in_channels:
                raise ValueError(
                    f"The weights of {name} were trained on {len(mean)} channels, so their mean and std do not fit "
                    f"{in_channels}: give mean and std."
                )
        self.normalize = make_normalize(in_channels, mean, std)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k] for images [b c h w] in [0, 1]."""
        logits: Tensor = self.net(self.normalize(x))
        return logits
