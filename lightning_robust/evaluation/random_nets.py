"""Nets whose logits change from one forward pass to the next: how they are noticed, and judged over many passes."""

import torch
from torch import Tensor

from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.types import Net

PASSES = 20
"""Forward passes over which the accuracy on the examples of a random net is averaged, and as many to choose them."""

CHANGE = 1e-3
"""How far logits may differ, relative to the largest, before they count as others: kernels may sum in another order."""


def is_random(net: Net, x: Tensor) -> bool:
    """Return whether two forward passes on the same images [b c h w] give different logits.

    Differences up to `CHANGE` do not count.

    Example:
        >>> x = torch.rand(2, 1, 2, 2)
        >>> is_random(lambda x: x.flatten(1), x), is_random(lambda x: (x * torch.rand(2, 1, 1, 1)).flatten(1), x)
        (False, True)
    """
    return len(x) > 0 and bool((change(logits_no_grad(net, x), logits_no_grad(net, x)) > CHANGE).any())


def change(one: Tensor, other: Tensor) -> Tensor:
    """Return by how much each sample's logits [b k] differ from others of the same images, relative to the largest.

    A class that is masked (-inf) in both does not differ.

    Example:
        >>> change(torch.tensor([[1.0, -4.0], [2.0, -torch.inf]]), torch.tensor([[2.0, -4.0], [2.0, -torch.inf]]))
        tensor([0.2500, 0.0000])
    """
    gaps = (one - other).abs().nan_to_num(nan=0.0, posinf=torch.inf).amax(1)
    return gaps / one.masked_fill(one.isneginf(), 0).abs().max().clamp_min(1e-12)


def share_right(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """Return the share of `PASSES` forward passes in which the net is right on each sample [b].

    Example:
        >>> share_right(lambda x: x.flatten(1), torch.eye(2).view(2, 2, 1, 1), torch.tensor([0, 0]))
        tensor([1., 0.], dtype=torch.float64)
    """
    right = torch.stack([logits_no_grad(net, x).argmax(1) == y for _ in range(PASSES)])
    return right.double().mean(0)
