"""Gradients with respect to images: summed over the batch, scaled under fp16, free of entries that are not finite."""

from collections.abc import Callable

import torch
from torch import Tensor

_FP16_SCALE = 2.0**12


def detached(value: Tensor) -> Tensor:
    """The tensor detached, and copied if inference mode made it (such a tensor cannot join a gradient)."""
    return value.clone() if value.is_inference() else value.detach()


def awaiting_gradient(x: Tensor) -> Tensor:
    """A copy of x that a backward pass leaves its gradient on."""
    return x.detach().clone().requires_grad_()


def input_gradient(value: Callable[[Tensor], Tensor], x: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """The gradient of the summed per-sample `value(x)` [b] with respect to x, and the values.

    The sum, never the mean: a mean's gradient underflows in fp16. Under fp16 autocast the gradient is moreover computed
    at 2^12 times its size. Entries that are not finite are set to 0, unless a graph is created: an attack goes on along
    the others.
    """
    x = x.detach().requires_grad_()
    values = value(x)
    return _gradient(values, x, create_graph, create_graph), values.detach()


def input_gradients(values: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients [b m ...] of m per-sample `values(x)` [b m] from one forward pass, and the values."""
    x = x.detach().requires_grad_()
    columns = values(x)
    grads = [_gradient(column, x, keep_graph=True) for column in columns.unbind(1)]
    return torch.stack(grads, 1), columns.detach()


def _gradient(values: Tensor, x: Tensor, keep_graph: bool, create_graph: bool = False) -> Tensor:
    half = torch.is_autocast_enabled(x.device.type) and torch.get_autocast_dtype(x.device.type) == torch.float16
    total = values.sum() * (_FP16_SCALE if half else 1.0)
    (grad,) = torch.autograd.grad(total, x, retain_graph=keep_graph, create_graph=create_graph)
    if half:
        grad = grad / _FP16_SCALE
    return grad if create_graph else torch.nan_to_num_(grad, nan=0.0, posinf=0.0, neginf=0.0)
