"""ConvNeXts and vision transformers with a stem of convolutions, against the authors' nets in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_robust.models import TimmModel
from tests.models.test_recorded_modern import MODERN, pixels, seeded

pytest.importorskip("timm")
TIMM = {"vit_s": "vit_small_patch16_224", "vit_m": "deit3_medium_patch16_224", "vit_b": "vit_base_patch16_224"}
TIMM |= {"deit_s": "deit_small_patch16_224"}
NETS = [n for n in MODERN if n.startswith("convstem_") and "logits_f64" in MODERN[n]]
COUNTS = {name: count for name, count in MODERN.get("convstem_counts", {}).items() if isinstance(count, int)}


def recorded(name: str) -> tuple[Any, Tensor, dict[str, Any]]:
    record = MODERN[name]
    k = record["logits_f64"].shape[1]
    net = TimmModel(TIMM.get(record["net"], record["net"]), num_classes=k, stem="conv")
    seeded(net.net, record)
    return net, pixels(record, 3), record


@pytest.mark.parametrize("name", NETS)
def test_logits_stem_and_gradient_are_the_authors(name: str) -> None:
    net, x, record = recorded(name)
    seen: list[Tensor] = []
    stem = net.net.stem if hasattr(net.net, "stem") else net.net.patch_embed.proj
    stem.register_forward_hook(lambda _, x, z: seen.append(z))
    x.requires_grad_()
    logits = net(x)
    assert list(seen[0].shape) == record["stem_shape"]
    head = seen[0].flatten(1)[:, : record["stem_head_f64"].shape[1]]
    torch.testing.assert_close(head, record["stem_head_f64"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(logits, record["logits_f64"], rtol=1e-10, atol=1e-10)
    (gradient,) = torch.autograd.grad(logits[:, :10].logsumexp(1).sum(), x)
    torch.testing.assert_close(gradient.flatten(1).norm(dim=1), record["grad_norm_f64"], rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", [n for n in NETS if "logits_224_f64" in MODERN[n]])
def test_a_net_of_any_size_takes_images_of_224_pixels(name: str) -> None:
    net, _, record = recorded(name)
    theirs = record["logits_224_f64"]
    with torch.no_grad():
        logits = net(pixels({**record, "size": 224, "n": len(theirs)}, 3))[:, : theirs.shape[1]]
    torch.testing.assert_close(logits, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_as_many_as_the_authors(name: str) -> None:
    plain = name.removesuffix("_cvst")
    with torch.device("meta"):
        net = TimmModel(TIMM.get(plain, plain), num_classes=1000, stem="conv" if plain != name else None)
    assert sum(p.numel() for p in net.parameters()) == COUNTS[name]


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [("convnext_atto", {}, 64), ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 4}, 32)],
)
def test_classes_channels_and_sizes_are_adapted(name: str, options: dict[str, Any], size: int) -> None:
    with torch.device("meta"):
        net = TimmModel(name, 7, in_channels=1, options=options, image_size=size, resize=None, stem="conv")
        assert net(torch.rand(2, 1, size, size)).shape == (2, 7)


def test_a_pretrained_net_keeps_all_weights_but_those_of_the_stem(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    trained = timm.create_model("convnext_atto", num_classes=5)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **settings: trained)
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    net: Any = TimmModel("convnext_atto", 5, pretrained=True, stem="conv")
    after = net.net.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in after if not key.startswith("stem."))
    assert isinstance(net.net.stem[3], nn.Conv2d)
    assert net.normalize.std.flatten().tolist() == pytest.approx(list(trained.pretrained_cfg["std"]))


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("resnet18", {"stem": "conv"}, "ConvNeXts and vision transformers of timm, and 'resnet18' is a ResNet: leave"),
        ("vit_tiny_patch16_224", {"stem": "patch"}, "stem must be conv or left out, got 'patch'"),
        ("convnext_atto", {"options": {"patch_size": 2}, "stem": "conv"}, "patches of 4 x 4 pixels, but 'convnext_at"),
        (
            "vit_tiny_patch16_224",
            {"options": {"img_size": 24, "patch_size": 6}, "stem": "conv"},
            "a power of two pixels a side, such as 16 x 16, but 'vit_tiny_patch16_224' begins with Conv2d",
        ),
    ],
)
def test_what_has_no_such_stem_is_told(name: str, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TimmModel(name, **settings)
