"""Classification nets of torchvision, chosen by name."""

from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import ResNet

from lightning_robust.models.first_convolution import set_in_channels, use_small_stem
from lightning_robust.models.image_size import Resize, Resizing, fit_to_images
from lightning_robust.models.normalize import average_channels, make_normalize
from lightning_robust.utils.messages import describe_error, did_you_mean


class TorchvisionModel(nn.Module):
    """A classification net of torchvision, for any number of classes and channels, with normalisation inside.

    `resnet18` with `small_images` is the ResNet-18 of the TRADES, MART and ST recipes.

    Args:
        name: torchvision's name of the net, such as "resnet50".
        num_classes: number of logits; None for that of the pretrained weights, or 10 without them; in a recipe,
            for the data's.
        small_images: adapt a ResNet, ResNeXt or wide ResNet to images of up to 64 pixels: begin with a 3x3 convolution
            of stride 1 instead of a 7x7 convolution of stride 2 and max pooling. None leaves it to `image_size`.
        weights: name of pretrained weights, such as "DEFAULT" or "IMAGENET1K_V1", which are downloaded once; None for
            none. The last layer is initialised anew if they have another number of classes, the first one with
            `small_images`.
        mean: mean of each channel, in pixels in [0, 1], for the normalisation inside the net; None, together with std
            None, for that of the pretrained weights (averaged over their channels for another number), or none
            without them.
        std: standard deviation of each channel, > 0.
        options: further arguments of torchvision's builder, such as {image_size: 64} for vision transformers.
        in_channels: channels of the images; None for 3, and in a recipe for the data's. Pretrained weights for another
            number are summed or repeated as by timm.
        image_size: height and width of the images in pixels. With it, small images (up to 64 pixels) get `small_images`
            in ResNets without pretrained weights. Elsewhere they are resized inside the net to the size that it was
            made for, as are all images in nets that take no other size. None leaves the net as it is; in a recipe,
            None is replaced by the size of square images, where the data tell it.
        resize: height and width in pixels to which images are resized inside the net, by linear interpolation; "auto"
            for what `image_size` says, None for never.

    Raises:
        ValueError: for a name or weights that torchvision does not have, `small_images` for a net that is no ResNet, or
            statistics that do not fit the channels.

    Example:
        >>> net = TorchvisionModel("resnet18", num_classes=10, small_images=True)
        >>> net(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 10])

    Deviates: the CIFAR ResNet-18 of the papers starts from PyTorch's default initialisation, this one from
    torchvision's (convolutions normal, fan-out). Auxiliary heads (GoogLeNet, Inception) are left out.
    """

    def __init__(
        self,
        name: str = "resnet18",
        num_classes: int | None = None,
        small_images: bool | None = None,
        weights: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        options: dict[str, Any] | None = None,
        in_channels: int | None = None,
        image_size: int | None = None,
        resize: Resizing = "auto",
    ) -> None:
        super().__init__()
        in_channels = 3 if in_channels is None else in_channels
        known = torchvision.models.list_models(module=torchvision.models)
        if name not in known:
            raise ValueError(f"torchvision has no net {name!r}{did_you_mean(name, known)}")
        in_channels = 3 if in_channels is None else in_channels
        pretrained = _download_weights(name, weights)
        if pretrained is not None and mean is None and std is None:
            preprocessing = pretrained.transforms()
            mean, std = (average_channels(values, in_channels) for values in (preprocessing.mean, preprocessing.std))
        if num_classes is None:
            num_classes = 10 if pretrained is None else len(pretrained.meta["categories"])
        net = _build(name, num_classes, pretrained, options or {})
        made_for, fixed = _made_for(name, net, options or {})
        fit = fit_to_images(
            name,
            image_size,
            small_images,
            resize,
            resnet=isinstance(net, ResNet),
            trained=weights is not None,
            made_for=made_for,
            fixed=fixed,
        )
        self.adapted = fit._asdict()
        """What was decided by `image_size`, as the arguments that say so."""
        if fit.small_images:
            use_small_stem(net, in_channels)
        elif in_channels != 3:
            if getattr(net, "transform_input", False):
                raise ValueError(f"The pretrained weights of {name} take 3 channels, not {in_channels}.")
            set_in_channels(net, in_channels, trained=weights is not None)
        self.normalize = make_normalize(in_channels, mean, std)
        self.resize = Resize(fit.resize) if fit.resize else nn.Identity()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k] for images [b c h w] in [0, 1]."""
        logits: Tensor = self.net(self.resize(self.normalize(x)))
        return logits


def _download_weights(name: str, weights: str | None) -> Any:
    """Return torchvision's entry of the weights once their file is there and safe to load; None for none."""
    if weights is None:
        return None
    known = torchvision.models.get_model_weights(name).__members__
    if weights not in known:
        raise ValueError(f"torchvision has no weights {weights!r} for {name}{did_you_mean(weights, known)}")
    entry = known[weights]
    try:  # torchvision's builders load the file as a pickle that may run code, so it is first loaded as tensors only
        entry.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except Exception as error:  # the connection, the disk and a damaged file each raise their own kinds
        raise ValueError(
            f"The weights {weights} of {name} were not loaded ({describe_error(error)}) They are downloaded once, to "
            f"{torch.hub.get_dir()}/checkpoints: connect, or delete the file there if it is not whole."
        ) from error
    return entry


def _build(name: str, num_classes: int, weights: Any, options: dict[str, Any]) -> nn.Module:
    if name in ("googlenet", "inception_v3"):
        # torchvision removes the auxiliary heads of the pretrained googlenet by itself
        without_heads = {} if name == "googlenet" and weights else {"aux_logits": False}
        initialised = {} if weights else {"init_weights": True}
        options = initialised | without_heads | options
    classes = len(weights.meta["categories"]) if weights else num_classes
    net: nn.Module = torchvision.models.get_model(name, weights=weights, num_classes=classes, **options)
    if classes != num_classes:
        _replace_head(net, num_classes)
    return net


def _replace_head(net: nn.Module, num_classes: int) -> None:
    """Replace the last layer, which is linear in all nets but SqueezeNet, where it is a 1x1 convolution."""
    layers = [(path, module) for path, module in net.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    path, last = layers[-1]
    if isinstance(last, nn.Linear):
        net.set_submodule(path, nn.Linear(last.in_features, num_classes, bias=last.bias is not None))
    else:
        net.set_submodule(path, nn.Conv2d(last.in_channels, num_classes, 1))


def _made_for(name: str, net: Any, options: dict[str, Any]) -> tuple[int, bool]:
    """Return the height and width of the images that a net was made for, and whether it takes no other."""
    if name.startswith("vit_"):
        return net.image_size, True
    if "input_size" in options:  # MaxViT
        return options["input_size"][0], True
    preprocessing = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    return preprocessing.crop_size[0], name.startswith("maxvit_")
