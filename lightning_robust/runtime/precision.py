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
