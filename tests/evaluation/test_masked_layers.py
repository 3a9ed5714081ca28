"""Layers that hide the gradient are found, named and passed by, and nothing is said of sound nets."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

import lightning_robust as lr
from lightning_robust.attacks import APGD, PGD
from lightning_robust.attacks.base import Attack
from lightning_robust.evaluation import gradient_checks, soundness, strength
from lightning_robust.evaluation import straight_through as straight_through_module
from lightning_robust.evaluation.masked_layers import ERROR, FINER, PARTS, _unexplained, masked_layers
from lightning_robust.evaluation.probe import Probe
from lightning_robust.evaluation.soundness import examine
from lightning_robust.evaluation.straight_through import layers, straight_through
from lightning_robust.evaluation.with_gradient import WithGradient
from lightning_robust.models import PreActResNet, SmallConvNet
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Norm, Threat
from tests.helpers import masking
from tests.helpers.trained import held_out, trained_net

N = 16
THREAT = Threat("linf", 0.12)


def behind(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, trained_net(robust=False)).eval()


def checks_of(net: nn.Module, attack: Attack) -> dict[str, tuple[str, str]]:
    """Status and sentence of the checks of an evaluation; labels are what the net says without attack."""
    x, rng = held_out(N)[0], SampleRNG(0, torch.arange(N))
    y = logits_no_grad(net, x).argmax(1)
    standing = logits_no_grad(net, attack(WithGradient(net), x, y, rng=rng.fork(1))).argmax(1) == y
    told = examine(net, x, y, {"attack": attack}, None, standing, rng)
    return {check.name: (check.status, check.sentence) for check in told}


@pytest.fixture
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer steps of the attacks that do not decide on layers."""
    monkeypatch.setattr(gradient_checks, "STEPS", 5)
    monkeypatch.setattr(soundness, "QUERIES", 5)


ZERO = r"^The gradient of layer `0` \({}\) is zero although its output changes"
WRONG = r"^The gradient of layer `0` \({}\) does not tell how its output changes"
BROKEN = r"; with a straight-through estimate instead, a strong attack broke \d+ more of 16 samples: wrap such"
NO_ESTIMATE = r", and no straight-through estimate fits, .* shape \[1, 8, 8\] and its output \[8, 8, 8\]: wrap such"
RANDOM = "Two forward passes on the same images differ"


@pytest.mark.parametrize(
    ("net", "name", "status", "sentence"),
    [
        (lambda: behind(masking.Quantise()), "layers", "fail", ZERO.format("Quantise") + BROKEN),
        (lambda: behind(masking.JPEGLike()), "layers", "fail", ZERO.format("JPEGLike") + BROKEN),
        (lambda: behind(masking.StopGradient()), "layers", "fail", ZERO.format("StopGradient") + BROKEN),
        (lambda: behind(masking.QuantisedInside()), "layers", "fail", ZERO.format("QuantisedInside") + BROKEN),
        (lambda: behind(masking.KWTA()), "layers", "fail", WRONG.format("KWTA") + BROKEN),
        (lambda: behind(masking.MeanSparseLike()), "layers", "fail", WRONG.format("MeanSparseLike") + BROKEN),
        (
            lambda: behind(masking.Thermometer(), nn.Conv2d(8, 1, 1)),
            "layers",
            "warn",
            ZERO.format("Thermometer") + NO_ESTIMATE,
        ),
        (lambda: behind(masking.Saturated()), "gradients", "fail", "is exactly zero or not finite on"),
        (
            lambda: nn.Sequential(trained_net(robust=False), masking.Temperature()).eval(),
            "gradients",
            "fail",
            "input gradient of the cross-entropy is exactly zero or not finite on",
        ),
        (lambda: behind(masking.RandomResize()), "deterministic", "fail", RANDOM),
        (lambda: behind(masking.DropoutLeftOn()), "deterministic", "fail", RANDOM),
    ],
    ids=[
        *("quantised", "jpeg", "stop-gradient", "block", "k-wta", "mean-sparse", "thermometer"),
        *("sigmoid", "temperature", "resize", "dropout"),
    ],
)
@pytest.mark.slow
@pytest.mark.usefixtures("quick_probes")
def test_the_masking_zoo(net: Callable[[], nn.Module], name: str, status: str, sentence: str) -> None:
    """Under APGD-T; logits of any scale leave it a gradient, so that those too large are attacked by PGD."""
    strong, weak = APGD(THREAT, steps=20, targets=9), PGD(THREAT, steps=10)
    told = checks_of(net(), weak if "cross-entropy" in sentence else strong)[name]
    assert told[0] == status, told
    assert re.search(sentence, told[1]), told


def small(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10))


class Attending(nn.Module):
    """Self-attention over the rows of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(x[:, 0])
        return (rows + self.attention(rows, rows, rows)[0])[:, None]


class Residual(nn.Module):
    """A block of a residual net."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def conv(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), *layers)


SOUND: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: small(conv(nn.ReLU(inplace=True)), nn.Conv2d(8, 8, 3), nn.LeakyReLU()),
    "max-pool": lambda: small(conv(nn.ReLU(), nn.MaxPool2d(2)), nn.AdaptiveMaxPool2d(2)),
    "silu": lambda: small(conv(nn.SiLU()), nn.Conv2d(8, 8, 3), nn.Hardswish()),
    "gelu": lambda: small(conv(nn.GELU(), nn.GroupNorm(2, 8)), nn.Conv2d(8, 8, 3), nn.Mish()),
    "sigmoid": lambda: small(conv(nn.Sigmoid()), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Softplus()),
    "batch norm": lambda: SmallConvNet(width=8),
    "residual": lambda: small(conv(Residual(), Residual()), nn.AvgPool2d(2)),
    "attention": lambda: small(Attending(), Attending()),
    "instance norm": lambda: small(conv(nn.InstanceNorm2d(8), nn.ReLU6()), nn.AvgPool2d(2), nn.Softmax(1)),
    "clamped": lambda: small(nn.Hardtanh(0.0, 1.0), conv(nn.ELU(), nn.Dropout(0.5)), nn.MaxPool2d(3, 1)),
    "timm": lambda: pytest.importorskip("timm").create_model(
        "vit_tiny_patch16_224", depth=2, img_size=8, patch_size=2, in_chans=1
    ),
}
LARGER: dict[str, Callable[[], nn.Module]] = {
    "preact": lambda: PreActResNet(18, 10, in_channels=1),
    "torchvision": lambda: small(nn.Conv2d(1, 3, 1), resnet18(num_classes=16)),
    "mobilenet": lambda: pytest.importorskip("timm").create_model("mobilenetv3_small_050", in_chans=1),
}


def made(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = {**SOUND, **LARGER}[name]().eval()
        net(held_out(2)[0])  # lazy layers
    return net


@pytest.mark.parametrize("norm", ["linf", "l0"])
def test_what_falls_anyway_is_not_put_down_to_a_layer(norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of its gradient passes the layer, which is all that the attack needs; and much of a random net by chance."""
    monkeypatch.setattr(straight_through_module, "MORE_STEPS", 5)
    for more in ([], [masking.DropoutLeftOn()]):
        net, (x, y) = behind(masking.StopGradient(0.5), *more), held_out(N)
        probe = Probe(net, x, y, Threat(norm, {"linf": 0.12, "l0": 5}[norm]), SampleRNG(0, torch.arange(N)), N)
        told = layers(masked_layers(net, x), probe, N)
        assert (told.name, told.status) == ("layers", "pass")
        assert "`0` (StopGradient)" in told.sentence
        assert not probe.standing(strength.reference(probe.threat, 5)).all()


@pytest.mark.parametrize("name", [*SOUND, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGER)])
def test_every_layer_of_sound_nets_is_followed(name: str) -> None:
    assert masked_layers(made(name), held_out(N)[0]) == []


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.slow
def test_no_check_speaks_up_on_sound_nets(name: str) -> None:
    told = checks_of(made(name), APGD(THREAT, steps=20, targets=9))
    assert {check for check, (status, _) in told.items() if status != "pass"} == set()
    assert len(told) == 11


def test_the_error_of_sound_layers_falls_with_the_length_of_the_parts_and_that_of_jumps_does_not() -> None:
    u = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for sound in (nn.ReLU(), nn.MaxPool2d(2), nn.GELU(), lambda x: x.flatten(1).softmax(1)):
        coarse, fine = (_unexplained(sound, u, parts)[0] for parts in (PARTS, PARTS * FINER))
        assert fine < ERROR / 1.5
        assert fine < coarse
    for jumps in (masking.KWTA(), nn.Hardshrink(0.5), masking.StopGradient(0.5)):
        assert _unexplained(jumps, u, PARTS * FINER)[0] > 2 * ERROR


def test_half_of_the_gradient_explains_half_of_the_changes() -> None:
    u = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert _unexplained(masking.StopGradient(0.5), u, PARTS) == (pytest.approx(0.5), False)
    assert _unexplained(masking.StopGradient(0.0), u, PARTS) == (pytest.approx(1), True)
    assert _unexplained(lambda x: 3 * x + 1, u, PARTS) == (pytest.approx(0, abs=1e-9), False)
    assert _unexplained(torch.zeros_like, u, PARTS) == (0, False)


class Root(nn.Module):
    """Infinite slope at black pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


class Wrong(torch.autograd.Function):
    """A layer's own backward pass that points nowhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.flip(1)


class Misled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Wrong.apply(x.flatten(1)).view_as(x)


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(8).round_().div_(8)


@pytest.mark.parametrize(
    ("layer", "fault"),
    [
        (Root(), "is not finite"),
        (Misled(), "does not tell how its output changes"),
        (InPlace(), "is zero although its output changes"),
        (nn.Threshold(0.5, 0.0), "does not tell how its output changes"),
    ],
)
def test_other_faults(layer: nn.Module, fault: str) -> None:
    (found,) = masked_layers(behind(nn.Identity(), layer), held_out(N)[0])
    assert found.told == f"the gradient of layer `1` ({type(layer).__name__}) {fault}"
    assert found.keeps_shape


class Rounding(nn.Module):
    """A net whose own code rounds."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net((8 * x).round() / 8)


@pytest.mark.parametrize(
    "net",
    [
        lambda: behind(lr.bpda(masking.Quantise())),
        lambda: behind(masking.RandomResize()),
        lambda: behind(masking.DropoutLeftOn()),
        lambda: Rounding(trained_net(robust=False)),
    ],
    ids=["bpda", "resize", "dropout", "the net's own code"],
)
def test_layers_of_which_nothing_can_be_said(net: Callable[[], Any]) -> None:
    assert masked_layers(net(), held_out(N)[0]) == []


def test_no_more_can_be_said_of_one_image_and_of_none() -> None:
    for n in (0, 1):
        assert masked_layers(behind(masking.Quantise()), held_out(N)[0][:n]) == []


def test_a_net_that_is_no_module_and_whose_layer_has_no_name_in_it() -> None:
    layers = behind(masking.Quantise())
    (found,) = masked_layers(lambda x: layers(x), held_out(N)[0])
    assert found.told.startswith("the gradient of layer `Quantise` (Quantise) is zero")


def test_the_net_runs_as_ever_and_is_left_as_it_was() -> None:
    net, x = behind(masking.Quantise(), masking.KWTA()).train(), held_out(N)[0]
    before, state = net.eval()(x), {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    found = masked_layers(net, x)
    assert [layer.module for layer in found] == [net[0], net[1]]
    assert all(module.training and "forward" not in vars(module) for module in net.modules())
    net.eval()
    with straight_through(found):
        z = x.clone().requires_grad_()
        assert torch.equal(net(z), before)
        (gradient,) = torch.autograd.grad(net(z).sum(), z)
    plain = x.clone()
    plain = masking.KWTA()(masking.Quantise()(plain)).requires_grad_()
    assert torch.equal(gradient, torch.autograd.grad(trained_net(robust=False)(plain).sum(), plain)[0])
    torch.testing.assert_close(net.state_dict(), state, rtol=0, atol=0)
