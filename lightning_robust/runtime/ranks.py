"""The processes that run together: how many, what each has, and whether they must run the same forward passes."""

from typing import Any

import torch.distributed
from torch import nn


def world_size() -> int:
    """Number of ranks; 1 outside distributed training."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


def gather_objects(mine: Any) -> list[Any]:
    """Gather an object from each rank, in the order of the ranks; all ranks call it and get the same list."""
    if world_size() == 1:
        return [mine]
    everyone: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


def has_sync_batchnorm(net: Any) -> bool:
    """Whether the net's batch norms, in training mode, wait for the other ranks in each forward pass."""
    modules = net.modules() if world_size() > 1 and isinstance(net, nn.Module) else ()
    return any(isinstance(module, nn.SyncBatchNorm) for module in modules)
