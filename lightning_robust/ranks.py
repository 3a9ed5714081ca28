"""How many processes train together."""

import torch.distributed


def world_size() -> int:
    """Number of ranks; 1 outside distributed training."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1
