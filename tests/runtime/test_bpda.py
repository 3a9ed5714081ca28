"""`bpda` leaves what a layer computes as it is, and takes the gradient of another function."""

import pytest
import torch
from torch import Tensor, nn

import lightning_robust as lr
from lightning_robust.attacks import PGD
from lightning_robust.runtime.forwards import replaced_forwards
from lightning_robust.threat import Threat
from tests.helpers.trained import held_out, trained_net


def rounded(x: Tensor) -> Tensor:
    return (4 * x).round() / 4


def points(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_value_is_the_layers_and_the_gradient_is_the_others():
    x, w = points(5).requires_grad_(), points(5)
    out = lr.bpda(rounded, torch.sin)(x)
    assert torch.equal(out, rounded(x))
    (out @ w).backward()
    torch.testing.assert_close(x.grad, w * x.detach().cos())  # the derivative of the sine


def test_it_is_the_straight_through_estimate_unless_a_function_is_given():
    x, w = points(5).requires_grad_(), points(5)
    (lr.bpda(rounded)(x) @ w).backward()
    assert torch.equal(x.grad, w)


def test_second_derivatives_are_those_of_the_other_function():
    layer = lr.bpda(rounded, lambda x: x**3)
    x = points(4).requires_grad_()
    (slope,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(curvature, 6 * x.detach())


def test_weights_of_the_other_function_learn_and_those_of_the_layer_do_not():
    layer = lr.bpda(nn.Linear(3, 3), nn.Linear(3, 3))
    layer(torch.ones(2, 3)).sum().backward()
    assert {name for name, p in layer.named_parameters() if p.grad is not None} == {"backward.weight", "backward.bias"}


def test_a_layer_that_changes_its_input_in_place():
    x = points(5).requires_grad_()
    hidden = 2 * x
    lr.bpda(lambda z: z.mul_(4).round_().div_(4))(hidden).sum().backward()
    assert torch.equal(hidden, 2 * x)
    assert torch.equal(x.grad, torch.full_like(x, 2.0))


def test_what_no_gradient_fits_is_refused():
    with pytest.raises(ValueError, match=r"shape \[2, 3\] and its backward function one of shape \[2, 1, 3\]"):
        lr.bpda(torch.round, lambda x: x[:, None])(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"returns torch.int64, which carries no gradient"):
        lr.bpda(lambda x: x.long())(torch.ones(2, 3))


def test_an_attack_passes_a_quantiser():
    class Quantise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (8 * x).round() / 8

    (x, y), attack = held_out(32), PGD(Threat(eps=0.12), steps=10)
    left = []
    for layer in (Quantise(), lr.bpda(Quantise())):
        net = nn.Sequential(layer, trained_net(robust=False)).eval()
        left.append(int((net(attack(net, x, y)).argmax(1) == y).sum()))
    assert left[1] < left[0] - 10


def test_forwards_are_put_back_whatever_happens():
    first, second = nn.ReLU(), nn.ReLU()
    second.forward = torch.exp  # type: ignore[method-assign]  # as libraries do that wrap modules
    x = torch.tensor([-1.0])
    with replaced_forwards({first: torch.abs, second: torch.neg}):
        assert (float(first(x)), float(second(x))) == (1.0, 1.0)
    with pytest.raises(TypeError), replaced_forwards({first: torch.abs, second: torch.neg}):
        first("no tensor")
    assert "forward" not in vars(first)
    assert second.forward is torch.exp
