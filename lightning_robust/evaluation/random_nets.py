"""Nets whose logits change from one forward pass to the next: how they are noticed, and judged over many passes."""

import torch
from torch import Tensor

from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.types import Net

PASSES = 20
"""Forward passes over which the accuracy on the examples of a random net is averaged, and as many to choose them."""


def is_random(net: Net, x: Tensor) -> bool:
    """Return whether two forward passes on the same images [b c h w] give different logits.

    Differences below a thousandth of the largest logit do not count: kernels may sum in another order.

    Example:
        >>> x = torch.rand(2, 1, 2, 2)
        >>> is_random(lambda x: x.flatten(1), x), is_random(lambda x: (x * torch.rand(2, 1, 1, 1)).flatten(1), x)
        (False, True)
    """
    if not len(x):
        return False
    one, other = (logits_no_grad(net, x).nan_to_num(neginf=0.0) for _ in range(2))
    return bool((one - other).abs().max() > 1e-3 * one.abs().max())


def share_right(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """Return the share of `PASSES` forward passes in which the net is right on each sample [b].

    Example:
        >>> share_right(lambda x: x.flatten(1), torch.eye(2).view(2, 2, 1, 1), torch.tensor([0, 0]))
        tensor([1., 0.])
    """
    right = torch.stack([logits_no_grad(net, x).argmax(1) == y for _ in range(PASSES)])
    return right.float().mean(0)
