"""Images of any size and channels in the nets of torchvision and timm: the libraries' own nets, fitted by hand.

What a user would write without this package is written here: the library's constructor, the stem for CIFAR in place of
its own, the images resized by torchvision's transform.
"""

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from lightning_robust.models import TimmModel, TorchvisionModel
from lightning_robust.models.first_convolution import fit_channels, set_in_channels
from lightning_robust.models.image_size import Resize, fit_to_images
from lightning_robust.models.net_config import build_net

OTHERS = ("vit_b_16", "maxvit_t", "swin_t", "inception_v3", "vgg11")
TINY = {"depth": 1, "embed_dim": 12, "num_heads": 3}


def resnet(library: Any, channels: int, small: bool) -> nn.Module:
    """A ResNet-18 as users of either library adapt it."""
    net: Any
    if library is timm:
        net = timm.create_model("resnet18", num_classes=10, in_chans=channels)
    else:
        net = torchvision.models.resnet18(num_classes=10)
        net.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    if small:
        net.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
        net.maxpool = nn.Identity()
    return net  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("size", "channels"),
    [(28, 1), *(pytest.param(s, c, marks=pytest.mark.slow) for s in (8, 28, 32, 224) for c in (1, 3))],
)
@pytest.mark.parametrize("made", [TimmModel, TorchvisionModel])
def test_a_resnet_is_the_librarys_with_the_stem_for_cifar_on_small_images(made: Any, channels: int, size: int) -> None:
    net = made("resnet18", in_channels=channels, image_size=size).eval()
    theirs = resnet(timm if made is TimmModel else torchvision, channels, small=size < 224).eval()
    theirs.load_state_dict(net.net.state_dict())
    x = torch.rand(2, channels, size, size)
    assert torch.equal(net(x), theirs(x))
    assert net.adapted == {"small_images": size < 224, "resize": None}


def others(made: Any, **settings: Any) -> tuple[Any, nn.Module]:
    """A net without a stem for small images, and the library's own."""
    channels = settings["in_channels"]
    if made == "convnext":
        return TimmModel("convnext_atto", **settings), timm.create_model(
            "convnext_atto", num_classes=10, in_chans=channels
        )
    if made == "vit":
        theirs = timm.create_model("vit_tiny_patch16_224", num_classes=10, in_chans=channels, **TINY)
        return TimmModel("vit_tiny_patch16_224", options=TINY, **settings), theirs
    plain: Any = torchvision.models.mobilenet_v3_small(num_classes=10)
    plain.features[0][0] = nn.Conv2d(channels, 16, 3, 2, 1, bias=False)
    return TorchvisionModel("mobilenet_v3_small", **settings), plain


@pytest.mark.parametrize(
    ("size", "channels"), [(8, 1), *(pytest.param(s, c, marks=pytest.mark.slow) for s in (28, 32, 224) for c in (1, 3))]
)
@pytest.mark.parametrize("made", ["convnext", "vit", "mobilenet"])
def test_other_nets_are_the_librarys_behind_images_resized_to_224(made: str, size: int, channels: int) -> None:
    net, theirs = others(made, in_channels=channels, image_size=size)
    theirs.load_state_dict(net.net.state_dict())
    x = torch.rand(2, channels, size, size)
    torch.testing.assert_close(net.eval()(x), theirs.eval()(resize(x, [224, 224])))
    assert ("Resize(size=224)" in str(net)) == (size < 224)


@pytest.mark.parametrize(
    ("name", "size"),
    [("alexnet", 8), *(pytest.param(n, s, marks=pytest.mark.slow) for n in (*OTHERS, "alexnet") for s in (8, 28, 48))],
)
def test_no_net_of_torchvision_reduces_small_images_to_nothing(name: str, size: int) -> None:
    with torch.device("meta"):
        assert TorchvisionModel(name, image_size=size)(torch.rand(2, 3, size, size)).shape == (2, 10)


@pytest.mark.slow
def test_large_images_are_resized_where_the_net_takes_no_other_size() -> None:
    with torch.device("meta"):
        nets: list[Any] = [TorchvisionModel(name, image_size=300) for name in ("vit_b_16", "maxvit_t", "swin_t")]
        nets += [TimmModel("vit_tiny_patch16_224", image_size=300), TimmModel("resnet18", image_size=300)]
        dynamic = {"dynamic_img_size": True}
        nets += [TimmModel("vit_tiny_patch16_224", image_size=304, options=dynamic)]
    assert [net.adapted["resize"] for net in nets] == [224, 224, None, 224, None, None]
    x = torch.rand(1, 3, 300, 300)
    torch.testing.assert_close(Resize(224)(x), resize(x, [224, 224], antialias=True))


@pytest.mark.slow
def test_a_net_made_for_the_size_is_left_alone() -> None:
    with torch.device("meta"):
        net: Any = TimmModel("vit_tiny_patch16_224", image_size=32, options={"img_size": 32, "patch_size": 4})
        assert net(torch.rand(2, 3, 32, 32)).shape == (2, 10)
        vit: Any = TorchvisionModel("vit_b_16", image_size=32, options={"image_size": 32})
        maxvit: Any = TorchvisionModel("maxvit_t", image_size=448, options={"input_size": [448, 448]})
    assert net.adapted == vit.adapted == maxvit.adapted == {"small_images": False, "resize": None}


@pytest.mark.parametrize(
    ("asked", "fit"),
    [
        ({}, (True, None)),
        ({"small_images": False}, (False, 224)),
        ({"small_images": False, "resize": None}, (False, None)),
        ({"resize": 128}, (False, 128)),
        ({"resize": None}, (False, None)),
        ({"small_images": True, "resize": 64}, (True, 64)),
        ({"image_size": None}, (False, None)),
        ({"image_size": None, "small_images": True}, (True, None)),
    ],
)
def test_what_is_asked_for_goes_before_what_is_decided(asked: dict[str, Any], fit: Any) -> None:
    with torch.device("meta"):
        net: Any = TorchvisionModel("resnet18", **{"image_size": 32, **asked})
        again: Any = build_net(
            {"class_path": "TimmModel", "init_args": {"name": "resnet18", "image_size": 32, **asked}}
        )
    assert tuple(net.adapted.values()) == tuple(again.adapted.values()) == fit
    same: Any = TorchvisionModel("resnet18", **{"image_size": 32, **asked, **net.adapted})  # as an export says it
    assert same.adapted == net.adapted


def test_trained_weights_keep_their_stem() -> None:
    settings: Any = {"resnet": True, "made_for": 224, "fixed": False}
    assert fit_to_images("resnet18", 32, None, "auto", trained=True, **settings) == (False, 224)
    assert fit_to_images("resnet18", 32, True, "auto", trained=True, **settings) == (True, None)


def test_gradients_pass_twice_through_resizing() -> None:
    x = torch.rand(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    for size in (5, 2):
        torch.autograd.gradcheck(Resize(size), x)
        torch.autograd.gradgradcheck(lambda v, size=size: Resize(size)(v) ** 2, x)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_trained_weights_are_fitted_to_other_channels_as_timm_does(channels: int) -> None:
    weight = torch.randn(8, 3, 5, 5)
    torch.testing.assert_close(fit_channels(weight, channels), timm.models.adapt_input_conv(channels, weight))


def test_a_grey_image_gives_what_its_three_copies_gave() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    x = torch.rand(2, 1, 6, 6)
    before: Tensor = net(x.expand(-1, 3, -1, -1))
    set_in_channels(net, 1, trained=True)
    torch.testing.assert_close(net(x), before)


@pytest.mark.parametrize("channels", [1, 6])
def test_new_channels_begin_as_large_as_torchvisions_own(channels: int) -> None:
    net: Any = TorchvisionModel("resnet18", in_channels=channels)
    deviation = (2 / (64 * 49)) ** 0.5  # its initialisation, normal by fan-out, does not depend on the input's channels
    torch.testing.assert_close(net.net.conv1.weight.std().item(), deviation, rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"name": "resnet18", "image_size": 0}, "image_size must be a number of pixels, at least 1, got 0"),
        ({"name": "resnet18", "resize": "large"}, "resize must be a number of pixels, at least 1, got 'large'"),
        ({"name": "vgg11", "small_images": True}, "ResNets only, not for vgg11: leave it out and enlarge the images"),
    ],
)
@pytest.mark.parametrize("made", [TimmModel, TorchvisionModel])
def test_what_cannot_be_is_told(made: Any, settings: dict[str, Any], told: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=told):
        made(**settings)


def test_a_net_that_begins_otherwise_keeps_its_channels() -> None:
    with pytest.raises(ValueError, match="Linear does not begin with a convolution"):
        set_in_channels(nn.Linear(2, 2), 1, trained=False)
