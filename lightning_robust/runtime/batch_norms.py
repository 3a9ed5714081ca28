"""A faster backward pass of batch norms on running statistics."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


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
def fast_bn_backward(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, gradients pass batch norms in evaluation mode by one multiplication, on CPUs.

    Outputs are torch's to the bit, gradients but for rounding (in bf16 the scale is rounded too, as autocast rounds the
    weights of convolutions). torch's own backward pass takes as long as that of a small convolution, and keeps the
    norm's input. Norms that train, whose weights await a gradient, or whose forward is not torch's are left alone; so
    are compiled nets (the compiler fuses such things, and would compile anew each time). Nets should not be copied or
    pickled inside.
    """
    modules = list(modules)
    compiled = any(m._compiled_call_impl is not None or hasattr(m, "_torchdynamo_orig_callable") for m in modules)
    norms = [] if compiled else [m for m in modules if isinstance(m, _BatchNorm) and _suits(m)]
    for norm in norms:
        norm.__dict__["forward"] = _scaling(norm)
    try:
        yield
    finally:
        for norm in norms:
            norm.__dict__.pop("forward", None)


def _suits(norm: _BatchNorm) -> bool:
    mean = norm.running_mean
    return type(norm) in KINDS and "forward" not in norm.__dict__ and mean is not None and mean.device.type == "cpu"


def _scaling(norm: _BatchNorm) -> Callable[[Tensor], Tensor]:
    own: Callable[[Tensor], Tensor] = norm.forward

    def forward(x: Tensor) -> Tensor:
        frozen = not norm.training and not (norm.affine and norm.weight.requires_grad)
        ours = x.device.type == "cpu" and x.dtype in DTYPES
        if not (frozen and ours and x.requires_grad) or torch._C._functorch.peek_interpreter_stack() is not None:
            return own(x)
        assert norm.running_var is not None
        with torch.no_grad():
            variance = norm.running_var
            scale = torch.rsqrt(variance.to(torch.promote_types(variance.dtype, torch.float32)) + norm.eps)
            scale = scale * norm.weight if norm.affine else scale
        out: Tensor = _Norm.apply(x, own, scale.to(x.dtype).view(-1, *[1] * (x.dim() - 2)))
        return out

    return forward
