"""A faster backward pass through batch norms in evaluation mode, on CPUs."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_robust.runtime.forwards import replaced_forwards
from lightning_robust.utils.private_apis import BatchNorm, in_function_transform, is_compiled

_NORM_TYPES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


class _FastNorm(torch.autograd.Function):
    """Runs a batch norm's own forward pass; its backward pass multiplies each channel with a scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Callable[[Tensor], Tensor], scale: Tensor) -> Tensor:
        ctx.scale = scale
        return norm(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] * ctx.scale, None, None


@contextmanager
def fast_bn_backward(parts: Iterable[Any]) -> Iterator[None]:
    """Let gradients pass batch norms in evaluation mode by one multiplication, on CPUs.

    torch's own backward pass of a batch norm takes as long as that of a small convolution, and keeps the norm's input.
    Outputs are torch's to the bit and gradients to rounding (in bf16 the scale is rounded too, as autocast rounds the
    weights of convolutions).

    Batch norms are left alone if they are in training mode, if their weights require a gradient, or if their forward
    pass is not torch's. So are compiled nets, because the compiler fuses such operations and would compile anew each
    time. Nets should not be copied or pickled inside the context.

    Args:
        parts: all modules of a net, and the callables around them, as `parts_of(net)` or `net.modules()` gives them.

    Example:
        >>> norm = nn.BatchNorm2d(1, eps=0.0).eval().requires_grad_(False)
        >>> norm.running_var = torch.tensor([4.0])
        >>> x = torch.ones(1, 1, 1, 1, requires_grad=True)
        >>> with fast_bn_backward([norm]):
        ...     norm(x).sum().backward()
        >>> x.grad.item()
        0.5
    """
    parts = list(parts)
    norms = [part for part in parts if isinstance(part, BatchNorm) and _is_supported(part)]
    if norms and any(is_compiled(part) for part in parts):
        norms = []
    with replaced_forwards({norm: _make_forward(norm) for norm in norms}):
        yield


def _is_supported(norm: BatchNorm) -> bool:
    mean = norm.running_mean
    has_own_forward = "forward" in norm.__dict__
    return type(norm) in _NORM_TYPES and not has_own_forward and mean is not None and mean.device.type == "cpu"


def _make_forward(norm: BatchNorm) -> Callable[[Tensor], Tensor]:
    original: Callable[[Tensor], Tensor] = norm.forward

    def forward(x: Tensor) -> Tensor:
        frozen = not norm.training and not (norm.affine and norm.weight.requires_grad)
        supported = x.device.type == "cpu" and x.dtype in _DTYPES
        in_transform = in_function_transform()
        if not (frozen and supported and x.requires_grad) or in_transform:
            return original(x)
        assert norm.running_var is not None
        with torch.no_grad():
            variance = norm.running_var
            scale = torch.rsqrt(variance.to(torch.promote_types(variance.dtype, torch.float32)) + norm.eps)
            scale = scale * norm.weight if norm.affine else scale
        per_channel = scale.to(x.dtype).view(-1, *[1] * (x.dim() - 2))
        out: Tensor = _FastNorm.apply(x, original, per_channel)
        return out

    return forward
