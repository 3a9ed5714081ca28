"""torchvision's nets: every family gets its classes, small images their stem, pretrained weights their statistics."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._api import WeightsEnum
from torchvision.transforms.functional import normalize

from lightning_robust.models import TorchvisionModel
from lightning_robust.models.torchvision_model import _replace_head

# one net a family; RegNets cannot be built on the meta device
FAMILIES = [
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3"),
    *(
        "maxvit_t",
        "mnasnet1_0",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "resnet18",
        "resnext50_32x4d",
        "shufflenet_v2_x1_0",
    ),
    *("squeezenet1_0", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_16", "wide_resnet50_2"),
]
QUICK = {"alexnet", "convnext_tiny", "googlenet", "resnet18", "squeezenet1_0", "vit_b_16"}  # one of each kind of head


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_every_family_gives_as_many_logits_as_there_are_classes(name: str) -> None:
    with torch.device("meta"):
        net = TorchvisionModel(name, num_classes=7)
        assert net(torch.rand(2, 3, 224, 224)).shape == (2, 7)  # in training mode, where auxiliary heads would show
        imagenet = TorchvisionModel(name, num_classes=1000)
        replaced, before = imagenet.net, sum(p.numel() for p in imagenet.parameters())
        _replace_head(replaced, 7)
        assert imagenet(torch.rand(2, 3, 224, 224)).shape == (2, 7)
    assert sum(p.numel() for p in replaced.parameters()) == sum(p.numel() for p in net.parameters()) < before


@pytest.mark.slow
def test_regnets_too() -> None:
    assert TorchvisionModel("regnet_y_400mf", num_classes=7)(torch.rand(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    "name",
    ["resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnext50_32x4d", "wide_resnet50_2"))],
)
def test_small_images_keep_their_size_through_the_stem(name: str) -> None:
    sizes: list[torch.Size] = []
    with torch.device("meta"):
        for small in (True, False):
            net: Any = TorchvisionModel(name, small_images=small)
            net.net.layer1.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[2:]))
            assert net(torch.rand(2, 3, 32, 40)).shape == (2, 10)
    assert sizes == [(32, 40), (8, 10)]


def test_the_small_stem_starts_as_torchvision_starts_convolutions() -> None:
    net: Any = TorchvisionModel("resnet18", small_images=True).net
    torch.testing.assert_close(net.conv1.weight.std().item(), (2 / (9 * 64)) ** 0.5, rtol=0.05, atol=0)


def test_the_net_is_torchvisions_behind_normalisation() -> None:
    mean, std, x = [0.49, 0.48, 0.44], [0.2, 0.19, 0.21], torch.rand(2, 3, 32, 32)
    net, plain = (TorchvisionModel("resnet18", mean=m, std=s).eval() for m, s in ((mean, std), (None, None)))
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(x), plain(normalize(x, mean, std)))
    assert not torch.allclose(net(x), plain(x), rtol=1e-3, atol=0)


def test_builders_take_their_options() -> None:
    with torch.device("meta"):
        net = TorchvisionModel("vit_b_16", options={"image_size": 32, "dropout": 0.1})
        assert net(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def weights_of(kind: WeightsEnum, *_: Any, **__: Any) -> dict[str, Tensor]:
        torch.manual_seed(3)
        name = {"GoogLeNet_Weights": "googlenet", "ResNet18_Weights": "resnet18"}.get(
            type(kind).__name__, "squeezenet1_1"
        )
        options = {"init_weights": False} if name == "googlenet" else {}
        return torchvision.models.get_model(name, **options).state_dict()

    monkeypatch.setattr(WeightsEnum, "get_state_dict", weights_of)


@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", pytest.param("googlenet", marks=pytest.mark.slow)])
def test_pretrained_weights_bring_their_normalisation_and_keep_their_layers(name: str) -> None:
    x = torch.rand(2, 3, 64, 64)
    whole: Any = TorchvisionModel(name, num_classes=1000, weights="DEFAULT").eval()
    fine: Any = TorchvisionModel(name, num_classes=7, weights="IMAGENET1K_V1").eval()
    shared = [k for k, v in whole.state_dict().items() if fine.state_dict()[k].shape == v.shape]
    assert all(torch.equal(whole.state_dict()[key], fine.state_dict()[key]) for key in shared)
    assert len(whole.state_dict()) - len(shared) == 2  # weight and bias of the last layer
    assert fine(x).shape == (2, 7)
    z = normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(whole(x), whole.net(z))
    plain = TorchvisionModel(name, num_classes=1000, weights="DEFAULT", mean=[0.0] * 3, std=[1.0] * 3).eval()
    torch.testing.assert_close(plain(x), whole.net(x))


@pytest.mark.usefixtures("no_download")
def test_pretrained_weights_with_a_small_stem_and_for_one_channel() -> None:
    pretrained: Any = TorchvisionModel("resnet18", weights="DEFAULT").net
    small: Any = TorchvisionModel("resnet18", weights="DEFAULT", small_images=True).net
    grey: Any = TorchvisionModel("resnet18", weights="DEFAULT", in_channels=1)
    assert torch.equal(grey.net.conv1.weight, pretrained.conv1.weight.sum(1, keepdim=True))
    assert grey.normalize.mean.flatten().tolist() == pytest.approx([(0.485 + 0.456 + 0.406) / 3])
    assert torch.equal(pretrained.layer1[0].conv1.weight, small.layer1[0].conv1.weight)
    assert small.conv1.weight.shape == (64, 3, 3, 3)
    assert isinstance(small.maxpool, nn.Identity)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"name": "resnet_18"}, "no net 'resnet_18'; did you mean 'resnet18'"),
        ({"name": "raft_large"}, "no net 'raft_large'"),  # torchvision's, but no classifier
        ({"name": "quux"}, "no net 'quux'; there are alexnet, "),
        ({"name": "resnet18", "weights": "BEST"}, "no weights 'BEST' for resnet18; there are DEFAULT, IMAGENET1K_V1"),
        ({"name": "vgg11_bn", "small_images": True}, "ResNets only, not for vgg11_bn: leave it out"),
    ],
)
def test_what_cannot_be_built_is_told(settings: dict[str, Any], told: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=told):
        TorchvisionModel(**settings)


def test_weights_that_would_run_code_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that lies where torch keeps its downloads is not looked at otherwise."""

    class Trap:
        def __reduce__(self) -> tuple[Any, Any]:
            return Path.touch, (tmp_path / "sprung",)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    url = torchvision.models.get_model_weights("resnet18").DEFAULT.url
    cached = tmp_path / "checkpoints" / Path(url).name
    cached.parent.mkdir()
    torch.save({"fc.weight": Trap()}, cached)
    with pytest.raises(ValueError, match=rf"DEFAULT of resnet18 were not loaded .*{tmp_path}/checkpoints: connect"):
        TorchvisionModel("resnet18", weights="DEFAULT")
    assert not (tmp_path / "sprung").exists()
