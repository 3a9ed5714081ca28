"""A faster backward pass of batch norms on running statistics."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class _Norm(torch.autograd.Function):
    """A batch norm's own forward pass; backward, each channel is multiplied with its scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, own: Callable[[Tensor], Tensor], scale: Tensor) -> Tensor:
        ctx.scale = scale
        return own(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] * ctx.scale, None, None


@contextmanager
def scaling(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, gradients pass batch norms in evaluation mode by one multiplication, on CPUs and in full precision.

    Outputs are torch's to the bit, gradients but for rounding. torch's own backward pass takes as long as that of a
    small convolution, and keeps the norm's input. Weights and statistics may not change meanwhile. Compiled nets stay
    as they are: the compiler fuses such things, and would compile anew each time.
    """
    modules = list(modules)
    compiled = any(m._compiled_call_impl is not None or hasattr(m, "_torchdynamo_orig_callable") for m in modules)
    norms = [m for m in modules if isinstance(m, _BatchNorm) and type(m) in KINDS and m.running_mean is not None]
    norms = [] if compiled else [norm for norm in norms if not norm.training]
    before = [norm.__dict__.get("forward") for norm in norms]
    try:
        for norm in norms:
            norm.__dict__["forward"] = _scaling(norm)
        yield
    finally:
        for norm, forward in zip(norms, before, strict=True):
            if forward is None:
                norm.__dict__.pop("forward", None)
            else:
                norm.__dict__["forward"] = forward


def _scaling(norm: _BatchNorm) -> Callable[[Tensor], Tensor]:
    own: Callable[[Tensor], Tensor] = norm.forward
    scale: Tensor | None = None

    def forward(x: Tensor) -> Tensor:
        nonlocal scale
        if not x.requires_grad or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
            return own(x)
        scale = _scale(norm) if scale is None else scale
        out: Tensor = _Norm.apply(x, own, scale.view(-1, *[1] * (x.dim() - 2)))
        return out

    return forward


@torch.no_grad()
def _scale(norm: _BatchNorm) -> Tensor:
    """What each channel is multiplied with [c]."""
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    return scale * norm.weight if norm.affine else scale
