"""Classification nets of timm, chosen by name."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from lightning_robust.models.conv_stem import use_conv_stem
from lightning_robust.models.first_convolution import use_small_stem
from lightning_robust.models.image_size import Resize, Resizing, fit_to_images
from lightning_robust.models.normalize import average_channels, make_normalize
from lightning_robust.utils.extras import import_extra
from lightning_robust.utils.messages import describe_error, did_you_mean


class TimmModel(nn.Module):
    """A classification net of timm, for any number of classes and channels, with normalisation inside.

    A vision transformer for images of 32 x 32 pixels has `name="vit_tiny_patch16_224"` and
    `options={"img_size": 32, "patch_size": 4}`. With `stem="conv"`, ConvNeXts and vision transformers are those with a
    convolutional stem of Singh et al. 2023, which are more robust: "convnext_tiny", "convnext_small", "convnext_base",
    "convnext_large", "vit_small_patch16_224", "deit3_medium_patch16_224" and "vit_base_patch16_224" in the paper.

    Args:
        name: timm's name of the net, with or without the tag of its weights.
        num_classes: number of logits; None for that of the pretrained weights, or 10 without them; in a recipe,
            for the data's.
        pretrained: download pretrained weights; the last layer is initialised anew if they have another number of
            classes.
        in_channels: channels of the images; None for 3, and in a recipe for the data's. timm sums or repeats pretrained
            weights for another number.
        mean: mean of each channel, in pixels in [0, 1], for the normalisation inside the net; None, together with std
            None, for that of the pretrained weights (averaged over their channels for another number), or none
            without them.
        std: standard deviation of each channel, > 0.
        options: further arguments of `timm.create_model`.
        image_size: height and width of the images in pixels. With it, small images (up to 64 pixels) get `small_images`
            in ResNets without pretrained weights. Elsewhere they are resized inside the net to the size that it was
            made for, as are all images in nets that take no other size. None leaves the net as it is; in a recipe,
            None is replaced by the size of square images, where the data tell it.
        small_images: let a net of timm's class ResNet begin with a 3x3 convolution of stride 1 and without max pooling.
            None leaves it to `image_size`.
        resize: height and width in pixels to which images are resized inside the net, by linear interpolation; "auto"
            for what `image_size` says, None for never.
        stem: "conv" replaces the layer that cuts a ConvNeXt's or vision transformer's image into patches by a stem of
            small convolutions (see `lightning_robust.models.conv_stem.use_conv_stem`), which is initialised anew also
            where the other weights are pretrained; None leaves it.

    Raises:
        ImportError: without the package timm (the extra `zoo`).
        ValueError: for a name that timm does not have, options or weights with which timm cannot build the net,
            `small_images` for a net that is no ResNet, `stem` for one that cuts no such patches, or statistics that do
            not fit the channels.

    Example:
        >>> import torch
        >>> net = TimmModel("resnet10t", num_classes=10)
        >>> net(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        name: str,
        num_classes: int | None = None,
        pretrained: bool = False,
        in_channels: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        options: dict[str, Any] | None = None,
        image_size: int | None = None,
        small_images: bool | None = None,
        resize: Resizing = "auto",
        stem: Literal["conv"] | None = None,
    ) -> None:
        super().__init__()
        if stem not in (None, "conv"):
            raise ValueError(f"stem must be conv or left out, got {stem!r}.")
        timm = import_extra("timm", "zoo")
        if not timm.is_model(name):
            raise ValueError(f"timm has no net {name!r}{did_you_mean(name, timm.list_models())}")
        in_channels = 3 if in_channels is None else in_channels
        options = options or {}
        required = {"num_classes": num_classes, "in_chans": in_channels}
        if num_classes is None:
            required = {"in_chans": in_channels} if pretrained else {**required, "num_classes": 10}
        try:
            net: Any = timm.create_model(name, pretrained=pretrained, **required, **options)
        except Exception as error:  # timm raises many kinds, and downloads add those of the connection and the disk
            from_hub = (
                " Its weights are downloaded once: connect, or look at timm's name of them." if pretrained else ""
            )
            raise ValueError(
                f"timm could not build {name!r} with {options} ({describe_error(error)}){from_hub}"
            ) from error
        config: Any = net.pretrained_cfg
        if pretrained and mean is None and std is None:
            mean, std = (average_channels(config[which], in_channels) for which in ("mean", "std"))
        size = options.get("img_size", config["input_size"][-1])
        fit = fit_to_images(
            name,
            image_size,
            small_images,
            resize,
            resnet=isinstance(net, timm.models.ResNet),
            trained=pretrained,
            made_for=size if isinstance(size, int) else size[-1],
            fixed=bool(config.get("fixed_input_size")) and not options.get("dynamic_img_size"),
        )
        self.adapted = fit._asdict()
        """What was decided by `image_size`, as the arguments that say so."""
        if fit.small_images:
            use_small_stem(net, in_channels)
        if stem:
            use_conv_stem(name, net, in_channels)
        self.normalize = make_normalize(in_channels, mean, std)
        self.resize = Resize(fit.resize) if fit.resize else nn.Identity()
        self.net: nn.Module = net

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k] for images [b c h w] in [0, 1]."""
        logits: Tensor = self.net(self.resize(self.normalize(x)))
        return logits
