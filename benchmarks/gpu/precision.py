"""The precisions and layouts in which steps are measured."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch


@dataclass(frozen=True)
class Setting:
    """One of them: whether matrix products may use TF32, whether autocast runs, and what the defense is given."""

    precision: str
    tf32: bool = False
    bf16: bool = False
    of_defense: dict[str, Any] = field(default_factory=dict)

    def autocast(self, device: str) -> Callable[[], AbstractContextManager[Any]]:
        """Makes the context in which forward passes run."""
        return partial(torch.autocast, device, torch.bfloat16) if self.bf16 else nullcontext


SETTINGS = {
    "bf16, channels_last": Setting("bf16", True, True, {"channels_last": True}),
    "TF32": Setting("TF32", True),
    "fp32": Setting("fp32"),
    "bf16, channels_last, compiled": Setting("bf16", True, True, {"channels_last": True, "compile": True}),
}


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let matrix products and convolutions use TF32, or not; torch's default lets convolutions alone.

    By the older of torch's two ways to say so, as Lightning does: they must not be mixed.
    """
    matmul, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolutions
