"""HopSkipJump: the nearest example from decisions alone."""

import math
from typing import Any

import pytest
import torch
from foolbox.attacks.hop_skip_jump import HopSkipJumpAttack
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor, nn

from lightning_robust.attacks import HopSkipJump, Transfer
from lightning_robust.attacks.minimum_norm import minimum_norms
from lightning_robust.attacks.progress import room_for
from lightning_robust.evaluation.black_box_checks import black_box_stages
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Norm, Threat
from tests.helpers.toys import conv_net, linear_distance, linear_net
from tests.helpers.trained import held_out, trained_net


class Decisions(nn.Module):
    """Tells the classes of a net, one-hot; without a gradient."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        logits = self.net(x)
        return torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]).to(x)


def keyed(n: int) -> SampleRNG:
    return SampleRNG(0, torch.arange(n))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.filterwarnings("ignore:The net's outputs look like probabilities")
def test_it_finds_the_nearest_boundary_of_a_linear_net_from_its_decisions(norm: Norm) -> None:
    weight = torch.randn(2, 12, generator=torch.Generator().manual_seed(5))
    net = linear_net(weight, -weight.sum(1) / 2)  # the boundary passes through the middle of the box
    x = 0.4 + 0.2 * torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    y = net(x).argmax(1)
    size = minimum_norms(HopSkipJump(Threat(norm), steps=30), Decisions(net), x, y, keyed(6))
    best = linear_distance(net, x, y, norm)
    assert (size >= (1 - 1e-3) * best - 1e-6).all()
    torch.testing.assert_close(size, best, rtol=0.05, atol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.slow
def test_it_comes_as_near_as_foolboxs(norm: Any) -> None:
    """At equal steps and directions; theirs starts from noise blended with the image."""
    net, (x, y) = trained_net(), held_out(40)
    right = net(x).argmax(1) == y
    x, y = x[right], y[right]
    with torch.no_grad():
        theirs = HopSkipJumpAttack(steps=10, constraint=norm).run(PyTorchModel(net, bounds=(0, 1), device="cpu"), x, y)
    ours = minimum_norms(HopSkipJump(Threat(norm), steps=10), net, x, y, keyed(len(x)))
    assert ours.isfinite().all()
    ratio = (ours / Threat(norm).distance(theirs, x)).log().mean().exp()
    assert ratio < 1.03  # over 63 samples it is 0.94 to 0.97 in linf, and 0.53 in l2


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_example_depends_neither_on_the_batch_nor_on_the_room(norm: Norm) -> None:
    net, x = conv_net().double().eval(), torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    y, attack = net(x).argmax(1), HopSkipJump(Threat(norm, 0.3), steps=3, directions=20)
    whole = attack.nearest(net, x, y, rng=keyed(6))
    assert torch.equal(net(whole).argmax(1) != y, (whole != x).flatten(1).any(1))
    assert (whole != x).flatten(1).any(1).sum() > 1
    for rows in (torch.tensor([3]), torch.tensor([5, 0, 2])):
        with room_for(7):
            part = attack.nearest(net, x[rows], y[rows], rng=keyed(6)[rows])
        torch.testing.assert_close(part, whole[rows], rtol=0, atol=1e-10)


def test_what_is_near_enough_or_cannot_be_started_is_left() -> None:
    seen: list[int] = []
    net = linear_net(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([-0.5, 0.5]))
    x, y = torch.tensor([[0.8, 0.1], [0.9, 0.2]]), torch.tensor([0, 0])
    attack = HopSkipJump(Threat("l2", 0.5), steps=2, directions=5)

    def watched(z: Tensor) -> Any:
        seen.append(len(z))
        return net(z)

    attack.nearest(watched, x, y, enough=torch.tensor([9.0, 9.0]))
    assert len(seen) < 100
    sure = linear_net(torch.zeros(2, 2), torch.tensor([2.0, 0.0]))
    assert (minimum_norms(attack, sure, x, y) == math.inf).all()


def test_it_is_a_black_box_attack_and_needs_a_finite_box() -> None:
    assert black_box_stages({"hsj": HopSkipJump(), "fab": Transfer(HopSkipJump(), nn.Flatten())}) == {}
    with pytest.raises(ValueError, match="must be finite"):
        HopSkipJump(Threat("l2", 1, -math.inf, math.inf))
    with pytest.raises(ValueError, match="works in linf and l2 alone"):
        HopSkipJump(Threat("l1", 1))
    with pytest.raises(ValueError, match="directions must be >= 1"):
        HopSkipJump(directions=0)
