"""Small nets with known answers, and closed forms to hold attacks against."""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor, nn


def conv_net(num_classes: int = 4, channels: int = 3) -> nn.Module:
    """A net for 8 x 8 images, in training mode, with batch norm (statistics not the initial ones) and dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Tanh(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.Tanh(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(8 * 4 * 4, num_classes),
        )
        with torch.no_grad():
            for _ in range(3):
                net(torch.rand(16, channels, 8, 8))
    return net


def linear_net(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """logits = weight [k d] . pixels + bias."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(*weight.shape[::-1], dtype=weight.dtype))
    with torch.no_grad():
        net[1].weight.copy_(weight)
        net[1].bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return net


def linear_boundaries(net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of a `linear_net`: normals [b k-1 d] and gaps [b k-1]; shifts d with normal.d = gap reach the other classes."""
    weight, logits = net[1].weight.detach(), net(x).detach()
    others = torch.tensor([[j for j in range(len(weight)) if j != label] for label in y.tolist()])
    return weight[others] - weight[y][:, None], logits.gather(1, y[:, None]) - logits.gather(1, others)


def linear_distance(net: nn.Module, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """The size [b] of the least perturbation that makes a `linear_net` err, where the box is not in the way."""
    normals, gaps = linear_boundaries(net, x, y)
    return (gaps / normals.norm(p={"linf": 1, "l2": 2, "l1": math.inf}[norm], dim=2)).amin(1)


def best_linear_gain(w: Tensor, x: Tensor, norm: str, eps: Tensor) -> Tensor:
    """max of w.delta over ||delta||_norm <= eps and 0 <= x + delta <= 1, for flat w [d], x [b d], eps [b].

    Exact for linf and l1 (fill the pixels with the greatest |w| first); for l2 where the box is not in the way.
    """
    room = torch.where(w > 0, 1 - x, x)
    if norm == "linf":
        return (w.abs() * torch.minimum(room, eps[:, None])).sum(1)
    if norm == "l2":
        return eps * w.norm()
    order = w.abs().argsort(descending=True)
    room = room[:, order]
    spent_before = room.cumsum(1) - room
    return (w.abs()[order] * torch.minimum(room, (eps[:, None] - spent_before).clamp_min(0))).sum(1)


def least_shift_size(w: Tensor, gap: float, x: Tensor, norm: str, lower: float = 0.0, upper: float = 1.0) -> float:
    """min ||d||_norm over w.d = gap and lower <= x + d <= upper, for flat w [d], x [d]; inf where there is none.

    linf and l1 by linear programming, l2 by a quadratic solver.
    """
    w, x, d = w.double().numpy(), x.double().numpy(), len(x)
    bounds, eye = [(lower - v, upper - v) for v in x.tolist()], np.eye(d)
    sizes = 1 if norm == "linf" else d  # linf: all |d_i| <= one size; l1: |d_i| <= size_i; the sum of sizes is least
    size_of = np.ones((d, 1)) if norm == "linf" else eye
    best = linprog(
        [0] * d + [1] * sizes,
        A_ub=np.block([[eye, -size_of], [-eye, -size_of]]),
        b_ub=np.zeros(2 * d),
        A_eq=[[*w, *[0] * sizes]],
        b_eq=[gap],
        bounds=bounds + [(0, None)] * sizes,
    )
    if norm != "l2" or not best.success:
        return float(best.fun) if best.success else math.inf
    level = {"type": "eq", "fun": lambda v: w @ v - gap, "jac": lambda v: w}
    best = minimize(
        lambda v: (v @ v, 2 * v), best.x[:d], jac=True, bounds=bounds, constraints=level, options={"ftol": 1e-14}
    )
    return float(np.sqrt(best.fun))


def finite_differences(value: Callable[[], Tensor], parameters: Iterable[Tensor], h: float = 1e-4) -> list[Tensor]:
    """The gradient of `value()` by central differences, one entry of the parameters after the other, in place."""
    gradients = []
    with torch.no_grad():
        for parameter in parameters:
            flat, gradient = parameter.data.view(-1), torch.zeros(parameter.numel(), dtype=parameter.dtype)
            for i in range(len(flat)):
                old = float(flat[i])
                flat[i] = old + h
                above = value()
                flat[i] = old - h
                gradient[i] = (above - value()) / (2 * h)
                flat[i] = old
            gradients.append(gradient.view_as(parameter))
    return gradients
