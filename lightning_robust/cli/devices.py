"""How many processes a run will have, which of them this is, and the strategy that is taken where none is named."""

from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only


def processes(accelerator: Any, devices: Any, num_nodes: int) -> int:
    """Return the number of processes of a trainer with these settings, as far as it can be told before it is built."""
    if devices in ("auto", -1, "-1"):
        each = torch.cuda.device_count() if accelerator in ("auto", "gpu", "cuda") else 1
    elif isinstance(devices, str):
        each = len(devices.split(",")) if "," in devices else int(devices) if devices.isdecimal() else 1
    else:
        each = devices if isinstance(devices, int) else len(devices)
    return max(each, 1) * num_nodes


def launched_rank() -> int:
    """Return the rank that this process was launched as, by the environment or Lightning; 0 where neither tells it.

    It is known before the processes have met; from then on `runtime.ranks.rank` is the one in their group.
    """
    return int(getattr(rank_zero_only, "rank", None) or 0)


def fitting_ddp(accumulate_grad_batches: int = 1) -> DDPStrategy:
    """Return DDP as it suits a defense: the training graph is the same in every step and holds every parameter.

    But where gradients accumulate, a static graph crashes or leaves ranks apart
    (https://github.com/pytorch/pytorch/pull/187732).
    """
    return DDPStrategy(
        static_graph=accumulate_grad_batches == 1, gradient_as_bucket_view=True, find_unused_parameters=False
    )
