"""timm's nets: settings, statistics of pretrained weights, and what is said where it cannot serve."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.transforms.functional import normalize

from lightning_robust.models import TimmModel

TINY = {"img_size": 8, "patch_size": 4, "depth": 1, "embed_dim": 12, "num_heads": 3}


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "mixer_s32_224"])
@pytest.mark.parametrize("channels", [1, 3])
def test_classes_and_channels_are_adapted(name: str, channels: int) -> None:
    with torch.device("meta"):
        net = TimmModel(name, num_classes=7, in_channels=channels)
        assert net(torch.rand(2, channels, 224, 224)).shape == (2, 7)


def test_a_vision_transformer_for_images_of_32_pixels() -> None:
    with torch.device("meta"):
        net: Any = TimmModel("vit_tiny_patch16_224", options={"img_size": 32, "patch_size": 4})
        assert net(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert net.net.patch_embed.num_patches == 64
    # ViT-Ti/16's 5,717,416 (1000 classes, 224 pixels) less 990 classes, 132 positions and 720 inputs a patch
    less = 990 * (192 + 1) + (196 - 64) * 192 + (16 * 16 - 4 * 4) * 3 * 192
    assert sum(p.numel() for p in net.parameters()) == 5_717_416 - less


def test_the_net_is_timms_behind_normalisation() -> None:
    mean, std, x = [0.49, 0.48, 0.44], [0.2, 0.19, 0.21], torch.rand(2, 3, 8, 8)
    net = TimmModel("vit_tiny_patch16_224", mean=mean, std=std, options=TINY).eval()
    torch.testing.assert_close(net(x), net.net(normalize(x, mean, std)))


def test_pretrained_weights_bring_their_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    asked: list[dict[str, Any]] = []
    create = timm.create_model

    def without_download(name: str, pretrained: bool, **settings: Any) -> nn.Module:
        asked.append({"pretrained": pretrained, **settings})
        return create(name, **settings)

    monkeypatch.setattr(timm, "create_model", without_download)
    x = torch.rand(2, 3, 8, 8)
    net = TimmModel("vit_tiny_patch16_224", 10, pretrained=True, options=TINY).eval()
    torch.testing.assert_close(net(x), net.net(normalize(x, [0.5] * 3, [0.5] * 3)))  # what this net was trained with
    net = TimmModel("vit_tiny_patch16_224", pretrained=False, options=TINY).eval()
    torch.testing.assert_close(net(x), net.net(x))
    assert [a["pretrained"] for a in asked] == [True, False]
    assert asked[0]["num_classes"] == 10
    assert asked[0]["in_chans"] == 3


@pytest.mark.parametrize(
    ("name", "told"), [("resnet_18", "no net 'resnet_18'; did you mean 'resnet18'"), ("?", r"no net '\?'\.")]
)
def test_an_unknown_name_is_told(name: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TimmModel(name)


def test_without_the_package_its_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-robust\[zoo\]'"):
        TimmModel("resnet18")


@pytest.mark.slow
def test_importing_the_models_does_not_import_timm() -> None:
    code = "import sys, lightning_robust.models; sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_weights_that_do_not_come_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"timm could not build 'resnet18.nonsense' .*Invalid pretrained tag"):
        TimmModel("resnet18.nonsense", pretrained=True)


def test_statistics_of_pretrained_weights_are_averaged_for_other_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **settings: create(name, **settings))
    net: Any = TimmModel("resnet10t", pretrained=True, in_channels=1)
    theirs = create("resnet10t").pretrained_cfg
    assert net.normalize.mean.flatten().tolist() == pytest.approx([sum(theirs["mean"]) / 3])
    assert net.normalize.std.flatten().tolist() == pytest.approx([sum(theirs["std"]) / 3])
    assert net(torch.rand(2, 1, 64, 64)).shape == (2, 1000)  # as many as those weights have
