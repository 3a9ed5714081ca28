"""Sparse-RS: what it finds on linear nets, where the best is known, and what it keeps to."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from lightning_robust.attacks import SigmaZero, SparseRS
from lightning_robust.attacks.sparse_rs import _first
from lightning_robust.losses import margin
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from tests.helpers.toys import conv_net, linear_net
from tests.helpers.trained import held_out, trained_net


def keyed(n: int, seed: int = 0) -> SampleRNG:
    return SampleRNG(seed, torch.arange(n))


def linear() -> tuple[nn.Module, Tensor, Tensor]:
    """A net of two classes, images whose values lie at the box's ends too, and labels."""
    w = torch.randn(24, generator=torch.Generator().manual_seed(5))
    x = torch.rand(9, 2, 3, 4, generator=torch.Generator().manual_seed(2))
    x[:3] = x[:3].round()
    net = linear_net(torch.stack([0 * w, w]), torch.zeros(2))
    return net, x, net(x).argmax(1)


def best_gain(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """How much the margin rises at most by changing 1, 2, ... values [b d]."""
    w = net[1].weight.data[1]  # type: ignore[index]
    way = torch.where(y == 0, 1, -1)[:, None] * w
    return torch.where(way > 0, way * (1 - x.flatten(1)), -way * x.flatten(1)).sort(1, descending=True).values.cumsum(1)


def test_it_breaks_what_so_many_values_can_break_and_nothing_else() -> None:
    net, x, y = linear()
    least = (best_gain(net, x, y) < -margin(net(x), y)[:, None]).sum(1) + 1
    assert least.unique().numel() >= 3
    for less, breaks in ((1, False), (0, True)):
        eps = (least - less).to(x)
        x_adv = SparseRS(Threat("l0", 1), queries=800)(net, x, y, eps=eps, rng=keyed(9))
        assert ((net(x_adv).argmax(1) != y) == breaks).all()
        assert ((x_adv != x).flatten(1).sum(1) <= eps).all()


def test_what_stands_is_left_at_the_highest_point() -> None:
    """Far from the boundary: with 5 values the search reaches the best that is possible."""
    net, x, y = linear()
    net[1].bias.data = torch.tensor([100.0, 0.0])  # type: ignore[index]
    y = 0 * y
    x_adv = SparseRS(Threat("l0", 5), queries=800)(net, x, y, rng=keyed(9))
    gain = margin(net(x_adv), y) - margin(net(x), y)
    torch.testing.assert_close(gain, best_gain(net, x, y)[:, 4], rtol=1e-4, atol=1e-4)


def test_more_values_than_there_are_and_none() -> None:
    net, x, y = linear()
    x_adv = SparseRS(Threat("l0", 1), queries=20)(net, x, y, eps=torch.tensor([0.0] * 4 + [99.0] * 5), rng=keyed(9))
    assert torch.equal(x_adv[:4], x[:4])
    assert ((x_adv[4:] == 0) | (x_adv[4:] == 1) | (x_adv[4:] == x[4:])).all()


def test_a_sample_does_not_depend_on_its_batch() -> None:
    net, x = conv_net().double().eval(), torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    y, attack = net(x).argmax(1), SparseRS(Threat("l0", 12), queries=30)
    whole = attack(net, x, y, rng=keyed(8))
    broken = net(whole).argmax(1) != y
    assert 0 < broken.sum() < 8
    for rows in (torch.tensor([5]), *torch.arange(8).split(3), torch.arange(7, -1, -1)):
        torch.testing.assert_close(attack(net, x[rows], y[rows], rng=keyed(8)[rows]), whole[rows], rtol=0, atol=1e-12)


def test_queries_change_ever_fewer_values() -> None:
    seen: list[Tensor] = []

    def sure(z: Tensor) -> Tensor:
        """Say class 0, with less lead at every query, so that each point is kept."""
        seen.append(z)
        return torch.tensor([1 / (1 + len(seen)), 0.0]).expand(len(z), 2)

    x = torch.full((1, 400), 0.5)
    SparseRS(Threat("l0", 100), queries=1000)(sure, x, torch.tensor([0]), rng=keyed(1))
    assert len(seen) == 1001
    taken = [int(((b == 0.5) & (a != 0.5)).sum()) for a, b in pairwise(seen[1:])]
    now = {1: 15, 5: 15, 6: 7, 20: 7, 21: 6, 51: 5, 101: 3, 201: 3, 401: 2, 601: 2, 801: 1, 999: 1}
    assert {query: taken[query - 1] for query in now} == now
    assert all(int((z != 0.5).sum()) == 100 for z in seen[1:])


def test_it_comes_near_what_an_attack_with_gradients_breaks() -> None:
    net, (x, y) = trained_net(), held_out()
    right = net(x).argmax(1) == y
    for k in (2, 4):
        ours = net(SparseRS(Threat("l0", k), queries=500)(net, x, y, rng=keyed(len(x)))).argmax(1) == y
        theirs = net(SigmaZero(Threat("l0", k), steps=100)(net, x, y)).argmax(1) == y
        assert ours.sum() < right.sum()
        assert ours.sum() <= theirs.sum() + 3


@pytest.mark.parametrize("settings", [{"queries": 0}, {"share": 0.0}, {"share": 1.5}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be"):
        SparseRS(**settings)  # type: ignore[arg-type]


def test_other_norms_and_infinite_boxes_are_refused() -> None:
    with pytest.raises(ValueError, match="works in l0 alone"):
        SparseRS(Threat("l2", 1))
    with pytest.raises(ValueError, match="must be finite"):
        SparseRS(Threat("l0", 1, -math.inf, math.inf))


def test_the_smallest_of_each_row_are_marked() -> None:
    order, count = torch.tensor([[0.3, 0.1, 0.2], [0.5, 0.4, 0.9]]), torch.tensor([2.0, 0.0])
    assert _first(order, count).tolist() == [[False, True, True], [False, False, False]]
