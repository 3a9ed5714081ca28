"""The residual nets' settings, and that a sample's logits are its own."""

import io
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms.functional import normalize

from lightning_robust.defenses import AT
from lightning_robust.models import IAATWideResNet, PreActResNet, TorchvisionModel, WideResNet

MEAN, STD = [0.49, 0.48, 0.44], [0.2, 0.19, 0.21]
NETS: dict[str, Callable[..., nn.Module]] = {
    "preact_resnet18": lambda **settings: PreActResNet(18, **settings),
    "preact_resnet50": lambda **settings: PreActResNet(50, **settings),
    "wide_resnet": lambda **settings: WideResNet(10, 1, **settings),
    "wide_resnet_pool": lambda **settings: WideResNet(10, 1, shortcut="pool", **settings),
    "wide_resnet_same": lambda **settings: WideResNet(10, 1, padding="same", **settings),
    "preact_resnet18_same": lambda **settings: PreActResNet(18, shortcut="conv3x3", padding="same", **settings),
    "iaat": lambda **settings: IAATWideResNet(8, 1, **settings),
}

NAMES = [pytest.param(name, marks=pytest.mark.slow) if name == "preact_resnet50" else name for name in NETS]


def randomised(net: nn.Module) -> nn.Module:
    """In evaluation mode, with running statistics that are not those of a fresh net."""
    for name, value in net.named_buffers():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return net.eval()


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("channels", "size"), [(3, (32, 32)), (3, (64, 64)), (1, (28, 28)), (3, (17, 23))])
def test_all_image_sizes_fit(name: str, channels: int, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        net = NETS[name](in_channels=channels, num_classes=7)
        assert net(torch.rand(2, channels, *size)).shape == (2, 7)


@pytest.mark.parametrize("name", NETS)
def test_the_image_is_halved_twice_or_thrice(name: str) -> None:
    """Stages after the first halve it; nothing else does."""
    with torch.device("meta"):
        net: Any = NETS[name]()
        z = net.stem(net.normalize(torch.rand(1, 3, 32, 32)))
        sizes = [z.shape[-1], *((z := block(z)).shape[-1] for block in net.blocks)]
    assert [size for size, _ in itertools.groupby(sizes)] == ([32, 16, 8, 4] if "preact" in name else [32, 16, 8])


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_trained_and_every_pixel_seen(name: str) -> None:
    net, x = NETS[name](), torch.rand(4, 3, 16, 16, requires_grad=True)
    F.cross_entropy(net(x), torch.arange(4)).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert x.grad is not None
    assert (x.grad != 0).flatten(1).float().mean(1).min() > 0.9
    assert all(n.num_batches_tracked == 1 for n in net.modules() if isinstance(n, nn.BatchNorm2d))


@pytest.mark.parametrize("name", NAMES)
def test_in_evaluation_each_sample_is_alone(name: str) -> None:
    net, x = randomised(NETS[name]()), torch.rand(5, 3, 16, 16)
    torch.testing.assert_close(net(x)[3:4], net(x[3:4]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_weights_travel_without_the_statistics_of_the_pixels(name: str) -> None:
    plain, x = randomised(NETS[name]()), torch.rand(2, 3, 16, 16)
    buffer = io.BytesIO()
    torch.save(plain.state_dict(), buffer)
    buffer.seek(0)
    net = NETS[name](mean=MEAN, std=STD).eval()
    net.load_state_dict(torch.load(buffer, weights_only=True))
    torch.testing.assert_close(net(x), plain(normalize(x, MEAN, STD)), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(net(x), plain(x), rtol=1e-3)
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))


@pytest.mark.parametrize(
    "name", ["wide_resnet", *(pytest.param(n, marks=pytest.mark.slow) for n in ("preact_resnet18", "preact_resnet50"))]
)
def test_the_activation_is_the_one_that_was_asked_for(name: str) -> None:
    build = NETS[name]
    x, logits = torch.rand(2, 3, 8, 8), []
    state = randomised(build()).state_dict()
    functions = {"relu": F.relu, "silu": F.silu, "softplus": F.softplus, "leaky_relu": lambda z: F.leaky_relu(z, 0.1)}
    for activation, function in functions.items():
        net: Any = build(activation=activation).eval()
        net.load_state_dict(state)
        logits.append(net(x))
        for module in [net, *net.blocks]:
            module.activation = Function(function)
        torch.testing.assert_close(net(x), logits[-1])
    assert all(not torch.allclose(a, b, rtol=1e-3) for a, b in itertools.combinations(logits, 2))


class Function(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def test_pool_shortcuts_have_no_weights() -> None:
    blocks: Any = WideResNet(10, 2, shortcut="pool").blocks
    x = torch.rand(2, 32, 4, 6)
    out = blocks[1].shortcut(x)
    assert not list(blocks[1].shortcut.parameters())
    assert out.shape == (2, 64, 2, 3)
    torch.testing.assert_close(out[:, 16:48], F.avg_pool2d(x, 2))
    assert not out[:, :16].any()
    assert not out[:, 48:].any()


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: PreActResNet(20), "depth must be one of 18, 34, 50, got 20"),
        (
            lambda: PreActResNet(activation="gelu"),
            "Unknown activation 'gelu': choose one of relu, silu, softplus, leaky",
        ),
        (lambda: WideResNet(10, 1, activation="gelu"), "Unknown activation 'gelu'"),
        (lambda: WideResNet(32, 10), "depth must be 6 n \\+ 4 .* got 32 and 10"),
        (lambda: WideResNet(4, 10), "got 4 and 10"),
        (lambda: WideResNet(28, 0), "widen_factor at least 1, got 28 and 0"),
        (lambda: WideResNet(10, 1, shortcut="zero"), "Unknown shortcut 'zero': choose conv or pool"),
        (lambda: WideResNet(10, 1, padding="one_side"), "Unknown padding 'one_side': choose one of both, same"),
        (lambda: PreActResNet(padding="valid"), "Unknown padding 'valid'"),
        (
            lambda: PreActResNet(shortcut="pool"),
            "shortcut must be conv, or at depth 18 or 34 conv3x3, got 'pool'",
        ),
        (lambda: PreActResNet(50, shortcut="conv3x3"), "got 'conv3x3' at 50"),
        (lambda: IAATWideResNet(34), "depth must be 6 n \\+ 2 .* got 34 and 10"),
        (lambda: IAATWideResNet(2), "got 2 and 10"),
        (
            lambda: PreActResNet(mean=MEAN),
            r"each of the 3 channels, or both be None; got \[0.49, 0.48, 0.44\] and None",
        ),
        (lambda: WideResNet(10, 1, std=STD), "got None and"),
        (lambda: WideResNet(10, 1, in_channels=1, mean=MEAN, std=STD), "each of the 1 channels"),
        (lambda: TorchvisionModel(mean=[0.5], std=[0.5]), "each of the 3 channels"),
        (lambda: PreActResNet(mean=MEAN, std=[0.2, 0.0, 0.2]), "std > 0"),
    ],
)
def test_what_cannot_be_built_is_told(build: Any, told: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=told):
        build()


@pytest.mark.parametrize("name", [*NAMES, pytest.param("torchvision", marks=pytest.mark.slow)])
def test_channels_last_is_a_matter_of_memory_alone(name: str) -> None:
    build: Callable[..., nn.Module] = NETS.get(name, lambda **s: TorchvisionModel("resnet18", small_images=True, **s))
    plain = randomised(build())
    other = build().eval()
    other.load_state_dict(plain.state_dict())
    AT(other, channels_last=True).configure_model()
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in other.parameters() if p.dim() == 4)
    layouts: list[bool] = []
    last = [module for module in other.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)][-1]
    last.register_forward_hook(lambda _, x, z: layouts.append(z.is_contiguous(memory_format=torch.channels_last)))
    x = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(other(x), plain(x), rtol=1e-4, atol=1e-5)
    assert layouts == [True]
    # gradients in float64: in float32 a ReLU at all but 0 goes one way or the other, by kernel and processor
    plain, other, x = plain.double(), other.double(), x.double()
    a, b = (
        torch.autograd.grad(F.cross_entropy(net(x), torch.arange(3)), list(net.parameters())) for net in (plain, other)
    )
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
