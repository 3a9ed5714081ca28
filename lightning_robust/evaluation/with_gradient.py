"""Nets that pass on no gradient to their input, made such that attacks can run on them."""

from torch import Tensor, nn

from lightning_robust.runtime.gradients import explained, leaf_copy
from lightning_robust.runtime.modes import attack_mode
from lightning_robust.runtime.outputs import logits_of
from lightning_robust.types import Net


class WithGradient(nn.Module):
    """Wraps a net so that its input gradient is zero where it has none at all; so attacks can run on it.

    Args:
        net: images [b ...] to logits [b k], or to what holds them.
    """

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return the net's logits [b k]."""
        return logits_of(self.net(x)) + 0 * x.flatten(1)[:, :1]


def passes_gradient(net: Net, x: Tensor) -> bool:
    """Return whether a net's logits are connected with its input by any gradient.

    They are not behind `detach`, `no_grad` or a class number; behind `round` they are, by a gradient of zero.

    Args:
        net: images [b ...] to logits [b k]; left as it was.
        x: images [b ...].

    Example:
        >>> import torch
        >>> passes_gradient(nn.Flatten(), torch.ones(1, 2)), passes_gradient(torch.detach, torch.ones(1, 2))
        (True, False)
    """
    with attack_mode(net), explained():
        return logits_of(net(leaf_copy(x))).requires_grad
