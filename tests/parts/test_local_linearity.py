"""LLR against closed forms on linear nets and finite differences, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_robust.parts import LocalLinearity
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Views
from tests.helpers.few import plain_net
from tests.helpers.toys import finite_differences, linear_net
from tests.parts.test_regularizers import normed, slopes

X = 0.5 + 0.1 * torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 1, 0])
THREAT = Threat(eps=0.1)


def penalty(net: torch.nn.Module, regularizer: LocalLinearity, y: Tensor = Y) -> Tensor:
    rng = SampleRNG(0, torch.arange(len(X)))
    return regularizer.in_step(net, Batch(X, y), Views(X), 0, THREAT, rng)


@pytest.mark.parametrize(("weight", "mu"), [(2.0, 0.6), (1.0, 0.0), (0.0, 1.0)])
def test_closed_form_for_two_classes_of_a_linear_net(weight: float, mu: float) -> None:
    """l = softplus(-m) with the margin m linear in d: convex, so that the deviation is largest at an end."""
    w = torch.randn(2, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    net, y = linear_net(w), Y % 2
    direction = (w[0] - w[1]) * (1 - 2 * y[:, None])
    m = (X.flatten(1) * direction).sum(1)
    reach = THREAT.eps * direction.abs().sum(1)
    ends = []
    for t in (reach, -reach):
        slope = -torch.sigmoid(-m) * t
        ends.append((F.softplus(-m - t) - F.softplus(-m) - slope, slope.abs()))
    (up, up_slope), (down, down_slope) = ends
    expected = weight * torch.maximum(up, down) + mu * torch.where(up > down, up_slope, down_slope)
    found = penalty(net, LocalLinearity(weight, mu, steps=30), y)
    start = penalty(net, LocalLinearity(weight, mu, steps=0), y)
    # from some starts Adam climbs to the other, lower end
    other = weight * torch.minimum(up, down) + mu * torch.where(up > down, down_slope, up_slope)
    at_end = (found - expected).abs() < 1e-9
    assert (at_end | ((found - other).abs() < 1e-9)).all()
    assert at_end.any()
    assert not torch.allclose(start, found, rtol=1e-3)


@pytest.mark.parametrize("make", [lambda: plain_net(dtype=torch.float64), normed], ids=["conv", "bn"])
def test_value_and_gradient_equal_finite_differences(make: object) -> None:
    """At a random point of the ball, where no search is in the way."""
    net = make()  # type: ignore[operator]
    regularizer = LocalLinearity(0.7, 0.3, steps=0, bn="eval")
    point = THREAT.random(X, SampleRNG(0, torch.arange(len(X))))

    def value() -> Tensor:
        net.eval()
        near, far = (F.cross_entropy(net(z), Y, reduction="none") for z in (X, point))
        to_logits = net(X).softmax(1) - F.one_hot(Y, 3)
        net.train()
        gradient = torch.einsum("bk,bkd->bd", to_logits, slopes(net, X))
        slope = (gradient * (point - X).flatten(1)).sum(1)
        return 0.7 * (far - near - slope).abs() + 0.3 * slope.abs()

    found = penalty(net, regularizer)
    torch.testing.assert_close(found, value(), rtol=1e-6, atol=1e-9)
    gradient = torch.autograd.grad(found.mean(), list(net.parameters()))
    expected = finite_differences(lambda: value().mean(), net.parameters())
    torch.testing.assert_close(list(gradient), expected, rtol=1e-4, atol=1e-7)
    assert max(float(g.abs().max()) for g in expected) > 1e-3


def test_the_search_finds_more_and_leaves_nothing_behind() -> None:
    net = normed()
    with torch.no_grad():
        net[4].weight.mul_(30)  # so that the loss is curved
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = [penalty(net, LocalLinearity(1.0, 0.0, steps=steps, bn="eval")).detach() for steps in (0, 10)]
    assert (found[1] > found[0]).all()
    assert found[1].sum() > 2 * found[0].sum()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert net.training


def test_with_the_batchs_statistics_running_ones_neither_count_nor_move() -> None:
    nets = [normed(), normed()]
    nets[1][0].running_mean.add_(1.0)
    before = nets[1][0].running_mean.clone()
    one, other = (penalty(net, LocalLinearity()) for net in nets)
    torch.testing.assert_close(one, other)
    assert torch.equal(nets[1][0].running_mean, before)
    with pytest.raises(ValueError, match="needs bn eval or batch, got 'train'"):
        LocalLinearity(bn="train")


@pytest.mark.parametrize("given", [{"weight": -1.0}, {"mu": -1.0}, {"steps": -1}, {"step_size": 0.0}])
def test_settings_out_of_range_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="LocalLinearity needs weight, mu and steps >= 0 and step_size > 0"):
        LocalLinearity(**given)  # type: ignore[arg-type]
