"""Gradients with respect to images, safe in half precision and inside `inference_mode`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

_FP16_SCALE = 2.0**12

_NO_GRADIENT = (
    "The net's outputs have no gradient with respect to the images (it runs under no_grad, detaches, rounds or is made "
    "for inference alone): let gradients through, or use Square, which takes none."
)
_REASONS = {
    "does not require grad and does not have a grad_fn": _NO_GRADIENT,
    "appears to not have been used in the graph": _NO_GRADIENT,
    "Inference tensors cannot be saved for backward": (
        "The net holds weights or caches made in inference mode, through which no gradient can be taken: make them "
        "outside of it, or attack copy.deepcopy(net)."
    ),
    "requires you to call `fabric.backward(loss)`": (
        "Under this precision or strategy Fabric lets its own backward pass alone through the modules that it set up: "
        "attack net.module instead, under torch.autocast if you wish."
    ),
}
"""What torch and Fabric say where no gradient can be taken, and what that means for an attack."""


@contextmanager
def explained() -> Iterator[None]:
    """Raise what torch says about a gradient that cannot be taken as one sentence about the net.

    Raises:
        ValueError: in place of a RuntimeError with one of the known reasons; others pass.

    Example:
        >>> with explained():
        ...     torch.autograd.grad(torch.ones(()), torch.ones((), requires_grad=True))
        Traceback (most recent call last):
        ...
        ValueError: The net's outputs have no gradient with respect to the images ...
    """
    try:
        yield
    except RuntimeError as error:
        for sign, reason in _REASONS.items():
            if sign in str(error):
                raise ValueError(reason) from error
        raise


def eagerly() -> AbstractContextManager[Any]:
    """Return a context in which compiled nets run eagerly: their graphs allow one backward pass, of first order.

    Example:
        >>> net = torch.compile(torch.sin)
        >>> with eagerly():
        ...     net(torch.zeros(1))
        tensor([0.])
    """
    compiler_is_loaded = "torch._dynamo" in sys.modules  # loading it takes a second
    return torch.compiler.set_stance("force_eager") if compiler_is_loaded else nullcontext()


def detached(value: Tensor) -> Tensor:
    """Return the tensor without its graph, as a plain tensor, copied if it was made in inference mode.

    A tensor made in inference mode cannot take part in computing a gradient; its copy can. A subclass of `Tensor` with
    operations of its own, such as MONAI's `MetaTensor`, would break the backward pass; the same values as a plain
    tensor do not.

    Example:
        >>> with torch.inference_mode():
        ...     x = torch.zeros(1)
        >>> detached(x).is_inference()
        False
    """
    value = value.as_subclass(Tensor)
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
    unless a graph is created, so that an attack can go on along the others. A compiled net runs eagerly where a graph
    is created.

    Args:
        value: images [b ...] to one value per sample [b].
        x: images [b ...].
        create_graph: whether the gradient itself is to be differentiated.

    Returns:
        The gradient, in the shape of x, and the values [b], detached.

    Raises:
        ValueError: if there is no gradient, with the reason.

    Example:
        >>> gradient, values = input_gradient(lambda x: x.square().sum(1), torch.tensor([[1.0, 2.0]]))
        >>> gradient, values
        (tensor([[2., 4.]]), tensor([5.]))
    """
    x = x.detach().requires_grad_()
    with explained(), eagerly() if create_graph else nullcontext():
        values = value(x)
        return _gradient(values, x, create_graph, create_graph), values.detach()


def input_gradients(values: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of several values per sample from one forward pass, and the values.

    Each gradient is computed as by `input_gradient`. A compiled net runs eagerly.

    Args:
        values: images [b ...] to m values per sample [b m].
        x: images [b ...].

    Returns:
        The gradients [b m ...] and the values [b m], detached.

    Raises:
        ValueError: if there is no gradient, with the reason.

    Example:
        >>> gradients, values = input_gradients(lambda x: x * torch.tensor([[1.0, 3.0]]), torch.ones(1, 2))
        >>> gradients
        tensor([[[1., 0.],
                 [0., 3.]]])
    """
    x = x.detach().requires_grad_()
    with explained(), eagerly():
        columns = values(x)
        grads = [_gradient(column, x, keep_graph=True) for column in columns.unbind(1)]
    return torch.stack(grads, 1), columns.detach()


def _gradient(values: Tensor, x: Tensor, keep_graph: bool, create_graph: bool = False) -> Tensor:
    fp16 = torch.is_autocast_enabled(x.device.type) and torch.get_autocast_dtype(x.device.type) == torch.float16
    total = values.sum() * (_FP16_SCALE if fp16 else 1.0)
    (grad,) = torch.autograd.grad(total, x, retain_graph=keep_graph, create_graph=create_graph)
    if fp16:
        grad = grad / _FP16_SCALE
    # not in place: the gradient of a sum over channels is one plane seen several times, and of others a net may own it
    return grad if create_graph else torch.nan_to_num(grad, nan=0.0, posinf=0.0, neginf=0.0)
