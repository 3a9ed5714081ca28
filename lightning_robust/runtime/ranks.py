"""The processes (ranks) that run together in distributed training."""

from typing import Any

import torch.distributed
from torch import nn

from lightning_robust.runtime.modules_of import modules_of


def world_size() -> int:
    """Return the number of ranks; 1 outside distributed training.

    Example:
        >>> world_size()
        1
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


def rank() -> int:
    """Return the number of this rank in its process group; 0 where there is none, as before the processes have met.

    Example:
        >>> rank()
        0
    """
    return torch.distributed.get_rank() if world_size() > 1 else 0


def gather_objects(mine: Any) -> list[Any]:
    """Gather an object from each rank; all ranks must call it.

    Args:
        mine: this rank's object, which can be pickled.

    Returns:
        The same list on all ranks, in their order.

    Example:
        >>> gather_objects("a")
        ['a']
    """
    if world_size() == 1:
        return [mine]
    objects: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(objects, mine)
    return objects


def has_sync_batchnorm(net: Any) -> bool:
    """Return whether forward passes in training mode wait for the other ranks.

    This is so if there are several ranks and the net has a `SyncBatchNorm`.

    Args:
        net: an `nn.Module` or any other callable.
    """
    return world_size() > 1 and any(isinstance(module, nn.SyncBatchNorm) for module in modules_of(net))
