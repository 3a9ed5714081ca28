"""A faster net that computes the same, for attacks to search on."""

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from lightning_robust.draws import Draws
from lightning_robust.modes import crafting, input_gradient
from lightning_robust.types import Net

CLOSE = 1e-4
"""Logits whose difference is less than this share of the largest may change places by rounding."""


class Folded(nn.Module):
    """A net, and a copy whose batch norms are part of the convolutions before them.

    In evaluation mode a batch norm multiplies and shifts each channel, so the convolution's weights can do it: the same
    function but for rounding, with fewer passes over memory. In training mode the net itself runs. An attack counts a
    success on the copy that is so close that rounding might decide only if it is one of the net too (see `exact`).

    Args:
        net: images to logits.
        quick: its copy, for evaluation mode.
    """

    def __init__(self, net: nn.Module, quick: nn.Module) -> None:
        super().__init__()
        self.exact, self.quick = net, quick

    def forward(self, x: Tensor) -> Tensor:
        """The net's logits."""
        logits: Tensor = (self.exact if self.training else self.quick)(x)
        return logits


class _ChannelsLast(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x.contiguous(memory_format=torch.channels_last))
        return logits


def folded(net: Net, x: Tensor) -> Net:
    """The net as a `Folded` one where that can be done and is found to be right; otherwise the net itself.

    What cannot be traced, is random, or differs on random images like x [b c h w] in logits or input gradients by more
    than rounding stays as it is.
    """
    if not isinstance(net, nn.Module) or isinstance(net, Folded):
        return net
    try:
        with crafting(net):
            traced = fx.symbolic_trace(net)
            if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in traced.modules()):
                return net
            quick = fuse(copy.deepcopy(traced), no_trace=True)
    except Exception:
        return net  # control flow that depends on values, for example
    if x.device.type == "cpu" and x.dim() == 4:
        quick = _ChannelsLast(quick)
    both = Folded(net, quick)
    return both if _agree(both, x) else net


def _agree(both: Folded, x: Tensor) -> bool:
    like = torch.zeros_like(x[:1]).expand(8, *x.shape[1:])
    images = Draws(0, torch.arange(8, device=x.device)).uniform(like)
    found = [_seen(net, images) for _ in range(2) for net in (both.exact, both.quick)]
    near = torch.tensor([0.1 * CLOSE, 10 * CLOSE])  # gradients jump where an activation has a kink
    return all(
        bool((a - b).norm() <= share * a.norm())
        for one in found[1:]
        for a, b, share in zip(found[0], one, near, strict=True)
    )


def _seen(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    with crafting(net):
        grad, _ = input_gradient(lambda z: net(z).square().sum(1), x)
        with torch.no_grad():
            return net(x), grad


def exact(net: Any) -> Any:
    """The net whose word counts."""
    return getattr(net, "exact", net)


def unsure(logits: Tensor, y: Tensor) -> Tensor:
    """Of misclassified samples [b] those on which rounding might decide."""
    lead = logits.amax(1) - logits.gather(1, y[:, None])[:, 0]
    return lead < CLOSE * logits.abs().amax(1)
