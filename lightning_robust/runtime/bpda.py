"""Backward pass differentiable approximation (BPDA): layers that run as they are, with another gradient."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class _Substitute(torch.autograd.Function):
    """Returns the value; the gradient goes to the estimate."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, estimate: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0]


def with_gradient_of(value: Tensor, estimate: Tensor) -> Tensor:
    """Return a value that has, in the backward pass, the gradient of an estimate of it.

    Args:
        value: the value, of any shape.
        estimate: what the gradient is taken of; of the same shape.

    Raises:
        ValueError: for different shapes, or a value that is no floating-point number.

    Example:
        >>> x = torch.tensor([0.6], requires_grad=True)
        >>> value = with_gradient_of(x.round(), x**2)
        >>> value.backward()
        >>> value.item(), x.grad.item()
        (1.0, 1.2000000476837158)
    """
    if value.shape != estimate.shape:
        raise ValueError(
            f"The layer returns a tensor of shape {list(value.shape)} and its backward function one of shape "
            f"{list(estimate.shape)}: give bpda a backward function whose output has the layer's shape."
        )
    if not value.is_floating_point():
        raise ValueError(f"The layer returns {value.dtype}, which carries no gradient: let it return floats.")
    out: Tensor = _Substitute.apply(value.detach(), estimate)
    return out


class BPDA(nn.Module):
    """Runs a layer as it is, and another function in the backward pass; see `bpda`.

    Args:
        module: a layer, or any other function of one tensor.
        backward: the function of the same input whose gradient is taken.
    """

    def __init__(self, module: Callable[[Tensor], Tensor], backward: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module = module
        self.backward = backward

    def forward(self, x: Tensor) -> Tensor:
        """Return `module(x)`, whose gradient is that of `backward(x)`."""
        with torch.no_grad():
            value = self.module(x.clone())  # it may change its input in place
        return with_gradient_of(value, self.backward(x))


def identity(x: Tensor) -> Tensor:
    """Return the tensor itself, not a copy.

    Example:
        >>> x = torch.ones(1)
        >>> identity(x) is x
        True
    """
    return x


def bpda(module: Callable[[Tensor], Tensor], backward: Callable[[Tensor], Tensor] = identity) -> BPDA:
    """Return a layer that computes `module(x)`, and in the backward pass the gradient of `backward(x)`.

    Attacks need it for layers that hide the gradient: quantisers, thresholds, JPEG compression and the like. As the
    forward pass stays exact, each example that is found counts. The identity as `backward`, which gives the
    straight-through estimate, does for layers whose output is close to their input. The module's own parameters get no
    gradient.

    Args:
        module: a layer, or any other function of one tensor.
        backward: a differentiable function of the same input, whose output has the shape of the layer's.

    Returns:
        An `nn.Module`, to be put where the layer was.

    Raises:
        ValueError: when called, if the two outputs differ in shape, or if the layer's are no floating-point numbers.

    Example:
        >>> x = torch.tensor([0.2, 0.6], requires_grad=True)
        >>> quantise = bpda(torch.round)
        >>> (quantise(x) * torch.tensor([2.0, 3.0])).sum().backward()
        >>> quantise(x).tolist(), x.grad.tolist()
        ([0.0, 1.0], [2.0, 3.0])

    Paper: Athalye, Carlini & Wagner 2018 (arXiv 1802.00420), section 4.1.
    """
    return BPDA(module, backward)
