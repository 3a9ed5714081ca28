"""Gradient checkpointing that computes what the net without it computes."""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


@torch.compiler.disable  # type: ignore[untyped-decorator]
def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """`block(x)` that keeps x alone for the gradient and computes the rest again when it is asked for.

    PyTorch computes it again in whatever mode the block is in by then: batch norms would count the batch twice
    (https://github.com/pytorch/pytorch/issues/96136), and a penalty in evaluation mode, whose gradient is taken once
    the net is back in training mode, would get another function's gradient. Here the recomputation runs in the mode of
    the first pass and leaves running statistics alone. Gradients of gradients work.
    `torch.compile` leaves these blocks as they are.

    Args:
        block: a module without random layers (dropout would draw anew).
        x: its input; without gradients the block simply runs.
    """
    out: Tensor
    if torch.is_grad_enabled():
        contexts = (nullcontext(), _AsNow(block))
        out = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: contexts)
    else:
        out = block(x)
    return out


class _AsNow(AbstractContextManager[None]):
    """Puts a block into the mode that it had when this was made; each gradient enters it once more."""

    def __init__(self, block: nn.Module) -> None:
        self.modes: list[tuple[nn.Module, dict[str, Any]]] = [(m, {"training": m.training}) for m in block.modules()]
        for module, mode in self.modes:
            if isinstance(module, _BatchNorm):
                mode["track_running_stats"] = module.track_running_stats

    def __enter__(self) -> None:
        self.exits = ExitStack()
        for module, mode in self.modes:
            if mode["training"] and mode.get("track_running_stats"):  # copies take the update
                mode = mode | {name: buffer.clone() for name, buffer in module.named_buffers(recurse=False)}
            for name, value in mode.items():
                self.exits.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, value)

    def __exit__(self, *exception: Any) -> None:
        self.exits.close()
