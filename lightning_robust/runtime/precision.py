"""The precision in which a net runs: fp32, or bf16 under autocast."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Inside, autocast is off on the device of x."""
    return torch.autocast(x.device.type, enabled=False)


def half_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Inside, nets run under autocast in bf16 on the device of x."""
    return torch.autocast(x.device.type, torch.bfloat16)
