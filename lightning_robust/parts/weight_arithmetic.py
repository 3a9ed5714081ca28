"""Arithmetic on lists of weights that weight perturbations share."""

import torch
import torch.distributed
from torch import Tensor, nn

from lightning_robust.runtime.ranks import world_size


def weight_gradient(loss: Tensor, weights: list[nn.Parameter]) -> list[Tensor]:
    """Return the gradient of a loss with respect to the weights, averaged over the ranks.

    Args:
        loss: scalar loss of this rank.
        weights: the weights; those that the loss does not depend on get zeros.
    """
    gradient = list(torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True))
    if world_size() == 1:
        return gradient
    flat = torch.cat([g.flatten() for g in gradient])
    torch.distributed.all_reduce(flat)
    flat /= world_size()
    parts = torch.split(flat, [g.numel() for g in gradient])
    return [part.view_as(g) for part, g in zip(parts, gradient, strict=True)]


def joint_norm(tensors: list[Tensor]) -> Tensor:
    """Return the l2 norm of all tensors together.

    Example:
        >>> joint_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
        tensor(5.)
    """
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t) for t in tensors]))
    return norm


def safe_ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return `numerator / denominator` for a non-negative denominator, and 0 where it is 0; one may be a scalar.

    Example:
        >>> safe_ratio(torch.tensor(1.0), torch.tensor([2.0, 0.0]))
        tensor([0.5000, 0.0000])
    """
    return torch.where(denominator > 0, numerator / denominator, torch.zeros_like(denominator))


@torch.no_grad()
def assign(weights: list[nn.Parameter], values: list[Tensor]) -> None:
    """Set the weights to these values in place.

    Args:
        weights: the weights.
        values: their new values.
    """
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)
    torch.clear_autocast_cache()  # it may hold half-precision copies of the previous weights


@torch.no_grad()
def add_scaled(weights: list[nn.Parameter], directions: list[Tensor], scales: list[Tensor], factor: float) -> None:
    """Add `factor * scale * direction` to each weight in place.

    Args:
        weights: the weights.
        directions: a tensor in the shape of each weight.
        scales: a scalar for each weight.
        factor: a number for all weights.
    """
    for weight, direction, scale in zip(weights, directions, scales, strict=True):
        weight.addcmul_(direction, scale, value=factor)
    torch.clear_autocast_cache()
