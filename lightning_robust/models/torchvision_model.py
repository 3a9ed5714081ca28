"""Classification nets of torchvision, chosen by name."""

from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import ResNet

from lightning_robust.models.normalize import make_normalize
from lightning_robust.utils.messages import describe_error, did_you_mean


class TorchvisionModel(nn.Module):
    """A classification net of torchvision, for any number of classes, with normalisation inside.

    `resnet18` with `small_images` is the ResNet-18 of the TRADES, MART and ST recipes.

    Args:
        name: torchvision's name of the net, such as "resnet50".
        num_classes: number of logits.
        small_images: adapt a ResNet, ResNeXt or wide ResNet to images of up to 64 pixels: begin with a 3x3 convolution
            of stride 1 instead of a 7x7 convolution of stride 2 and max pooling.
        weights: name of pretrained weights, such as "DEFAULT" or "IMAGENET1K_V1", which are downloaded once; None for
            none. The last layer is initialised anew if they have another number of classes, the first one with
            `small_images`.
        mean: mean of each of the three channels, in pixels in [0, 1], for the normalisation inside the net; None,
            together with std None, for that of the pretrained weights, or none without them.
        std: standard deviation of each channel, > 0.
        options: further arguments of torchvision's builder, such as {image_size: 64} for vision transformers.

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
        num_classes: int = 10,
        small_images: bool = False,
        weights: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        known = torchvision.models.list_models(module=torchvision.models)
        if name not in known:
            raise ValueError(f"torchvision has no net {name!r}{did_you_mean(name, known)}")
        pretrained = _download_weights(name, weights)
        if pretrained is not None and mean is None and std is None:
            preprocessing = pretrained.transforms()
            mean, std = preprocessing.mean, preprocessing.std
        self.normalize = make_normalize(3, mean, std)
        self.net = _build(name, num_classes, pretrained, options or {})
        if small_images:
            _adapt_to_small_images(name, self.net)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k] for images [b 3 h w] in [0, 1]."""
        logits: Tensor = self.net(self.normalize(x))
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


def _adapt_to_small_images(name: str, net: nn.Module) -> None:
    if not isinstance(net, ResNet):
        raise ValueError(
            f"small_images is defined for torchvision's ResNets only, not for {name}: leave it out and enlarge the "
            "images, or take PreActResNet or WideResNet."
        )
    net.conv1 = nn.Conv2d(3, net.conv1.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
