"""Contexts for the precision in which a net runs: fp32, or bf16 under autocast."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which autocast is off on the device of x.

    Example:
        >>> x = torch.rand(2, 3)
        >>> with half_precision(x), full_precision(x):
        ...     (x @ x.T).dtype
        torch.float32
    """
    return torch.autocast(x.device.type, enabled=False)


def half_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which nets run under bf16 autocast on the device of x.

    Example:
        >>> x = torch.rand(2, 3)
        >>> with half_precision(x):
        ...     (x @ x.T).dtype
        torch.bfloat16
    """
    return torch.autocast(x.device.type, torch.bfloat16)


def explain_types(net: Any, x: Tensor, error: RuntimeError) -> None:
    """Raise a sentence instead of torch's error where a net's weights and images are of different types.

    Args:
        net: the net that failed.
        x: the images that it was given.
        error: what torch said.

    Raises:
        TypeError: if so.

    Example:
        >>> explain_types(torch.nn.Linear(2, 2), torch.zeros(1, 2, dtype=torch.float64), RuntimeError("mat1 and mat2"))
        Traceback (most recent call last):
        ...
        TypeError: The net's weights are torch.float32 and the images torch.float64, and the net fails on them ...
    """
    parameters = net.parameters() if isinstance(net, torch.nn.Module) else iter(())
    types = {p.dtype for p in parameters if p.is_floating_point()} - {x.dtype}
    if types and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(
            f"The net's weights are {', '.join(map(str, types))} and the images {x.dtype}, and the net fails on "
            f"them ({str(error).splitlines()[0]}): convert one of them; for half precision put torch.autocast "
            "around a float32 net."
        ) from error
