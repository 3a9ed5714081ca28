"""Gradient checkpointing that gives the gradients and batch-norm statistics of the net without it."""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_robust.utils.private_apis import BatchNorm


@torch.compiler.disable  # type: ignore[untyped-decorator]
def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Return `block(x)`, keeping only x for the backward pass and computing the rest again there.

    PyTorch recomputes a block in the mode that it is in during the backward pass. Batch norms would then count the
    batch twice (https://github.com/pytorch/pytorch/issues/96136), and a penalty computed in evaluation mode would get
    the gradient of another function if the net is back in training mode by then. Here the recomputation runs in the
    mode of the first forward pass and leaves running statistics unchanged. Second derivatives work.
    `torch.compile` does not compile these blocks.

    Args:
        block: a module without random layers (dropout would draw other numbers the second time).
        x: its input. Without gradients the block simply runs.

    Example:
        >>> block = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
        >>> checkpointed(block, torch.rand(2, 3, 8, 8)).mean().backward()
        >>> block[1].num_batches_tracked
        tensor(1)
    """
    out: Tensor
    if torch.is_grad_enabled():
        contexts = (nullcontext(), _ModeOfFirstForward(block))
        out = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: contexts)
    else:
        out = block(x)
    return out


class _ModeOfFirstForward(AbstractContextManager[None]):
    """Context that puts a block into the mode it had when the context was created.

    It is entered once for each backward pass.
    """

    def __init__(self, block: nn.Module) -> None:
        self.modes: list[tuple[nn.Module, dict[str, Any]]] = [(m, {"training": m.training}) for m in block.modules()]
        for module, mode in self.modes:
            if isinstance(module, BatchNorm):
                mode["track_running_stats"] = module.track_running_stats

    def __enter__(self) -> None:
        self.exits = ExitStack()
        for module, mode in self.modes:
            if mode["training"] and mode.get("track_running_stats"):
                # the recomputation updates copies of the running statistics, which are thrown away
                mode = mode | {name: buffer.clone() for name, buffer in module.named_buffers(recurse=False)}
            for name, value in mode.items():
                self.exits.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, value)

    def __exit__(self, *exception: Any) -> None:
        self.exits.close()
