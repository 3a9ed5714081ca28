"""Nets of today's recipes against their authors' logits, in float64, on weights that a formula gives (tests/golden)."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_robust.models import PreActResNet, WideResNet
from tests.defenses.test_golden import FOLDER
from tests.models.test_recorded import wave

MODERN: dict[str, Any] = torch.load(FOLDER / "modern.pt", weights_only=True)
DEEPMIND = [name for name in MODERN if name.startswith("dm_") and "logits_f64" in MODERN[name]]
CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)}  # what DeepMind's nets have inside


def authors_state(record: dict[str, Any]) -> list[tuple[str, Tensor]]:
    """The names and seeded values of the authors' state_dict, in its order."""
    state = []
    for i, entry in enumerate(record["names"]):
        name, _, shape = entry.partition(" ")
        size = torch.Size(int(n) for n in shape.strip("[]").split(",") if n.strip())
        if name.endswith("num_batches_tracked"):
            state.append((name, torch.zeros((), dtype=torch.int64)))
            continue
        scale = (2 * size[0] / size.numel()) ** 0.5 if len(size) > 1 else 0.5
        positive = len(size) == 1 and name.endswith(("weight", "var"))
        state.append((name, wave(size, i) * scale + positive))
    return state


def seeded(net: nn.Module, record: dict[str, Any]) -> nn.Module:
    """The net in float64 and evaluation mode, with the authors' entries in the order in which both list them."""
    values = [value for _, value in authors_state(record)]
    net.double().eval().load_state_dict(dict(zip(net.state_dict(), values, strict=True)))
    return net


def pixels(record: dict[str, Any], channels: int) -> Tensor:
    size = record.get("size", 32)
    shape = torch.Size((record.get("n", len(record["logits_f64"])), channels, size, size))
    return (wave(shape, record["phase"]) + 1) / 2


def deepmind(name: str, padding: Any = "same") -> tuple[nn.Module, Tensor]:
    """A net of the record's depth, width, classes and channels, and the record's images."""
    record = MODERN[name]
    shapes = {entry: value.shape for entry, value in authors_state(record)}
    first, last = next(iter(shapes.values())), shapes["logits.weight"]
    given: dict[str, Any] = {"num_classes": last[0], "in_channels": first[1], "padding": padding}
    given |= {"activation": "silu" if "silu" in name else "relu"}
    given |= {} if "plain_pixels" in name or first[1] != 3 else CIFAR10
    if "wrn" in name:
        depth = sum(len(shape) == 4 and shape[-1] == 3 for shape in shapes.values()) + 3
        net: nn.Module = WideResNet(depth, last[1] // 64, **given)
    else:
        net = PreActResNet(18, width=first[0], shortcut="conv3x3", **given)
    return seeded(net, record), pixels(record, first[1])


@pytest.mark.parametrize("name", DEEPMIND)
def test_deepmind_nets_give_the_authors_logits(name: str) -> None:
    net, x = deepmind(name)
    assert sum(p.numel() for p in net.parameters()) == MODERN[name]["parameters"]
    with torch.no_grad():
        torch.testing.assert_close(net(x), MODERN[name]["logits_f64"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", DEEPMIND)
def test_padding_on_both_sides_gives_other_logits(name: str) -> None:
    net, x = deepmind(name, padding="both")
    with torch.no_grad():
        assert (net(x) - MODERN[name]["logits_f64"]).abs().max() > 0.1


def test_wide_nets_have_as_many_parameters_as_deepminds() -> None:
    for size, parameters in MODERN.get("dm_counts", {}).items():
        if isinstance(parameters, int):
            with torch.device("meta"):
                net = WideResNet(*map(int, size.split("_")), activation="silu", padding="same")
            assert sum(p.numel() for p in net.parameters()) == parameters
