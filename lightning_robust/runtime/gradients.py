"""Gradients with respect to images, safe in half precision and inside `inference_mode`."""

from collections.abc import Callable

import torch
from torch import Tensor

_FP16_SCALE = 2.0**12


def detached(value: Tensor) -> Tensor:
    """Return the tensor without its graph, copied if it was made in inference mode.

    A tensor made in inference mode cannot take part in computing a gradient; its copy can.

    Example:
        >>> with torch.inference_mode():
        ...     x = torch.zeros(1)
        >>> detached(x).is_inference()
        False
    """
    return value.clone() if value.is_inference() else value.detach()


def leaf_copy(x: Tensor) -> Tensor:
    """Return a copy of x that is a leaf and requires a gradient, which a backward pass accumulates in `.grad`.

    Example:
        >>> x = leaf_copy(torch.tensor([3.0]))
        >>> x.square().backward()
        >>> x.grad
        tensor([6.])
    """
    return x.detach().clone().requires_grad_()


def input_gradient(value: Callable[[Tensor], Tensor], x: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """Return the gradient of the summed `value(x)` with respect to x, and the values.

    The values are summed and never averaged, because the gradient of a mean underflows in fp16. Under fp16 autocast
    the gradient is also computed at 2^12 times its size and divided again. Entries that are not finite are set to 0,
    unless a graph is created, so that an attack can go on along the others.

    Args:
        value: images [b ...] to one value per sample [b].
        x: images [b ...].
        create_graph: whether the gradient itself is to be differentiated.

    Returns:
        The gradient, in the shape of x, and the values [b], detached.

    Example:
        >>> gradient, values = input_gradient(lambda x: x.square().sum(1), torch.tensor([[1.0, 2.0]]))
        >>> gradient, values
        (tensor([[2., 4.]]), tensor([5.]))
    """
    x = x.detach().requires_grad_()
    values = value(x)
    return _gradient(values, x, create_graph, create_graph), values.detach()


def input_gradients(values: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of several values per sample from one forward pass, and the values.

    Each gradient is computed as by `input_gradient`.

    Args:
        values: images [b ...] to m values per sample [b m].
        x: images [b ...].

    Returns:
        The gradients [b m ...] and the values [b m], detached.

    Example:
        >>> gradients, values = input_gradients(lambda x: x * torch.tensor([[1.0, 3.0]]), torch.ones(1, 2))
        >>> gradients
        tensor([[[1., 0.],
                 [0., 3.]]])
    """
    x = x.detach().requires_grad_()
    columns = values(x)
    grads = [_gradient(column, x, keep_graph=True) for column in columns.unbind(1)]
    return torch.stack(grads, 1), columns.detach()


def _gradient(values: Tensor, x: Tensor, keep_graph: bool, create_graph: bool = False) -> Tensor:
    fp16 = torch.is_autocast_enabled(x.device.type) and torch.get_autocast_dtype(x.device.type) == torch.float16
    total = values.sum() * (_FP16_SCALE if fp16 else 1.0)
    (grad,) = torch.autograd.grad(total, x, retain_graph=keep_graph, create_graph=create_graph)
    if fp16:
        grad = grad / _FP16_SCALE
    return grad if create_graph else torch.nan_to_num_(grad, nan=0.0, posinf=0.0, neginf=0.0)
