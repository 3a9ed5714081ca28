"""SAM and ASAM by hand on linear losses, and against their definition."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_robust.parts import ASAM, SAM, WeightPerturbation
from tests.helpers.ddp import process_group, run_ddp
from tests.helpers.few import norm_net
from tests.parts.test_weight_perturbation import loss_of, two_layers, weights


class Products(nn.Module):
    """A weight and a bias by hand, so that each step of the formulas is a line of NumPy."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 0.0]], dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor([0.3, -0.1], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


POINTS = np.array([[1.0, 2.0], [-1.0, 0.5], [0.25, 3.0]])
SLOPES = np.array([[1.0, -1.0], [2.0, 0.5], [0.5, 4.0]])


def linear_loss(net: nn.Module, rows: slice = slice(None)) -> Callable[[], Tensor]:
    """A loss that is linear in the logits: the gradient is the mean of products."""
    x, slopes = torch.tensor(POINTS[rows]), torch.tensor(SLOPES[rows])
    return lambda: (net(x) * slopes).sum(1)


def moves(eta: float | None, rows: slice = slice(None)) -> list[Any]:
    """How far weight and bias move at rho = 0.2: by SAM, or by ASAM with this eta."""
    x, slopes = POINTS[rows], SLOPES[rows]
    gradient = [slopes.T @ x / len(x), slopes.mean(0)]
    sizes = [np.ones((2, 2)) if eta is None else np.abs([[1.0, -2.0], [0.5, 0.0]]) + eta, np.ones(2)]
    norm = np.sqrt(sum(((t * g) ** 2).sum() for t, g in zip(sizes, gradient, strict=True)))
    return [0.2 * t**2 * g / norm for t, g in zip(sizes, gradient, strict=True)]


SAMS = {None: lambda: SAM(0.2), 0.01: lambda: ASAM(0.2), 0.0: lambda: ASAM(0.2, eta=0.0)}


@pytest.mark.parametrize("eta", SAMS)
def test_sam_and_asam_move_by_their_formulas(eta: float | None) -> None:
    net = Products()
    before = weights(net)
    SAMS[eta]()(net, linear_loss(net), 0)
    for now, old, move in zip(weights(net), before, moves(eta), strict=True):
        np.testing.assert_allclose((now - old).numpy(), move, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("eta", SAMS)
def test_no_other_move_as_far_raises_the_loss_more(eta: float | None) -> None:
    """The definition: for a small rho, the largest loss where `||move / T|| <= rho`, against random moves."""
    net = two_layers()
    before, rho = weights(net), 1e-5
    perturbation = SAM(rho) if eta is None else ASAM(rho, eta)
    sizes = [
        w.abs() + eta if eta is not None and "weight" in name else torch.ones_like(w)
        for name, w in net.state_dict().items()
    ]
    start = float(loss_of(net)().detach().mean())
    restore = perturbation(net, loss_of(net), 0)
    moved = [(now - old) / t.clamp_min(1e-300) for now, old, t in zip(weights(net), before, sizes, strict=True)]
    assert float(torch.cat([m.flatten() for m in moved]).norm()) == pytest.approx(rho, rel=1e-6)
    best = float(loss_of(net)().detach().mean()) - start
    restore()
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        step = [m / rho + torch.randn(m.shape, generator=generator, dtype=m.dtype) / 50 for m in moved]
        norm = torch.cat([s.flatten() for s in step]).norm()
        with torch.no_grad():
            for w, s, t, old in zip(net.parameters(), step, sizes, before, strict=True):
                w.copy_(old + rho * t * s / norm)
        assert 0 < float(loss_of(net)().detach().mean()) - start < best


def test_asam_does_not_change_when_layers_are_rescaled_and_sam_does() -> None:
    """The first layer twice as large, the second half: the same net, and with eta = 0 the same net afterwards."""

    def after(perturbation: WeightPerturbation, factor: float) -> Tensor:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 5, bias=False), nn.Linear(5, 3, bias=False)).double()
        with torch.no_grad():
            net[1].weight.mul_(factor)
            net[2].weight.div_(factor)
        perturbation(net, loss_of(net), 0)
        return loss_of(net)().detach()

    torch.testing.assert_close(after(ASAM(0.5, 0.0), 2.0), after(ASAM(0.5, 0.0), 1.0), rtol=1e-12, atol=0)
    assert not torch.allclose(after(SAM(0.5), 2.0), after(SAM(0.5), 1.0), rtol=1e-3)


def test_sam_on_two_ranks_is_no_m_sharpness() -> None:
    """The authors' replicas move along their own gradients by default; here, all along the mean of these."""

    def on(rank: int) -> list[Tensor]:
        with process_group():
            net = Products()
            SAM(0.2)(net, linear_loss(net, slice(rank, rank + 1)), 0)
            return weights(net)

    before, both = weights(Products()), slice(0, 2)
    for after in run_ddp(on):
        for now, old, move in zip(after, before, moves(None, both), strict=True):
            np.testing.assert_allclose((now - old).numpy(), move, rtol=1e-12, atol=1e-15)
    assert not np.allclose(moves(None, slice(0, 1))[0], moves(None, both)[0], rtol=0.1)


@pytest.mark.parametrize("make", [SAM, ASAM])
def test_sam_moves_all_parameters_that_train(make: Any) -> None:
    net = nn.Sequential(norm_net(), nn.BatchNorm1d(3), nn.Linear(3, 3))
    net[2].weight.requires_grad_(False)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    restore = make(0.1)(net, loss_of(net), 0)
    moved = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    trains = {k for k, p in net.named_parameters() if p.requires_grad}
    assert {"1.weight", "1.bias", "2.bias"} <= moved <= trains
    assert all(p.grad is None for p in net.parameters())
    restore()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
