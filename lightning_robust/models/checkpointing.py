"""Gradient checkpointing that computes what the net without it computes."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_robust.modes import untracked


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """`block(x)` that keeps x alone for the gradient and computes the rest again when it is asked for.

    PyTorch computes it again in whatever mode the block is in by then: batch norms would count the batch twice
    (https://github.com/pytorch/pytorch/issues/96136), and a penalty in evaluation mode, whose gradient is taken once
    the net is back in training mode, would get another function's gradient. Here the recomputation runs in the mode of
    the first pass and leaves running statistics alone. Gradients of gradients work.

    Args:
        block: a module without random layers (dropout would draw anew).
        x: its input; without gradients the block simply runs.
    """
    out: Tensor
    if torch.is_grad_enabled():
        modes = partial(_contexts, block)
        out = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False, context_fn=modes)
    else:
        out = block(x)
    return out


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Those of the first pass and of the recomputation; called before the first."""
    return nullcontext(), _as_before(block, [(module, module.training) for module in block.modules()])


@contextmanager
def _as_before(block: nn.Module, modes: list[tuple[nn.Module, bool]]) -> Iterator[None]:
    now = [(module, module.training) for module, _ in modes]
    try:
        for module, training in modes:
            module.training = training
        with untracked(block):
            yield
    finally:
        for module, training in now:
            module.training = training
