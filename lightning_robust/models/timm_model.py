"""timm's classification nets by name."""

import importlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightning_robust.models.pixels import Pixels
from lightning_robust.utils.messages import did_you_mean, first_line


class TimmModel(nn.Module):
    """One of timm's classification nets, with as many logits as there are classes.

    A vision transformer for images of 32 pixels: `name="vit_tiny_patch16_224"` with
    `options={"img_size": 32, "patch_size": 4}`.

    Args:
        name: timm's name of the net, with or without the tag of its weights.
        num_classes: number of logits.
        pretrained: download weights; where `num_classes` is not theirs, the last layer starts afresh.
        in_channels: channels of the images.
        mean: of each channel, in pixels in [0, 1], for the normalisation inside the net; None, with std None: that of
            the pretrained weights, or else none.
        std: likewise, > 0.
        options: further arguments of `timm.create_model`.

    Raises:
        ImportError: without the package timm (the extra `zoo`).
        ValueError: for a name that timm does not have, options or weights with which it does not build it, or
            statistics that do not fit the channels.
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
        timm = _timm()
        if not timm.is_model(name):
            raise ValueError(f"timm has no net {name!r}{did_you_mean(name, timm.list_models())}")
        given = {"num_classes": num_classes, "in_chans": in_channels}
        try:
            self.net: nn.Module = timm.create_model(name, pretrained=pretrained, **given, **(options or {}))
        except Exception as error:  # of timm, of the connection, of what is damaged
            from_hub = (
                " Its weights are downloaded once: connect, or look at timm's name of them." if pretrained else ""
            )
            raise ValueError(
                f"timm could not build {name!r} with {options or {}} ({first_line(error)}){from_hub}"
            ) from error
        if pretrained and mean is None and std is None:
            config: Any = self.net.pretrained_cfg
            mean, std = config["mean"], config["std"]
            if len(mean) != in_channels:
                raise ValueError(
                    f"The weights of {name} were trained on {len(mean)} channels, so their mean and std do not fit "
                    f"{in_channels}: give mean and std."
                )
        self.pixels = Pixels(in_channels, mean, std)

    def forward(self, x: Tensor) -> Tensor:
        """Images [b c h w] in [0, 1] to logits [b k]."""
        logits: Tensor = self.net(self.pixels(x))
        return logits


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ImportError(
            f"TimmModel needs the package timm: pip install 'lightning-robust[zoo]' ({error})."
        ) from error
