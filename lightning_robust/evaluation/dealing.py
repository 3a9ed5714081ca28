"""Load balancing: deals the samples that still have to be attacked out evenly over the ranks."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.distributed
from torch import Tensor

from lightning_robust.evaluation.samples import Samples
from lightning_robust.runtime.ranks import gather_objects, world_size


def deal(samples: Samples, which: Tensor, device: torch.device) -> None:
    """Move samples between ranks until all have the same number of marked ones (or differ by one).

    All ranks call it together; the samples of each are changed in place.

    Args:
        samples: this rank's samples.
        which: marks those that may move [n].
        device: this rank's device, through which NCCL sends.
    """
    if world_size() == 1:
        return
    rank = torch.distributed.get_rank()
    if "gloo" in torch.distributed.get_backend():
        device = torch.device("cpu")
    plan = list(moves(gather_objects(int(which.sum()))))
    for source, target, number in plan:
        if rank == source:
            rows = torch.nonzero(which)[:, 0][-number:]
            stay = torch.ones(len(samples), dtype=torch.bool)
            stay[rows] = False
            which = which[stay]
            changed = samples.map(partial(_send, rows=rows, stay=stay, target=target, device=device))
        elif rank == target:
            changed = samples.map(partial(_receive, number=number, source=source, device=device))
        else:
            continue
        vars(samples).update(vars(changed))
    if plan:
        _deal_examples(samples)


def moves(marked: list[int]) -> Iterator[tuple[int, int, int]]:
    """Plan which rank sends how many rows to which, so that the ranks' numbers of rows differ by one at most.

    No other plan moves fewer rows.

    Args:
        marked: how many rows each rank has that may move.

    Yields:
        (source, target, number): the rank that sends, the rank that receives, and the number of rows.

    Example:
        >>> list(moves([9, 0, 3]))
        [(0, 1, 4), (0, 2, 1)]
    """
    share, extra = divmod(sum(marked), len(marked))
    richest = sorted(range(len(marked)), key=lambda rank: -marked[rank])
    surplus = [0] * len(marked)
    for place, rank in enumerate(richest):
        surplus[rank] = marked[rank] - share - (place < extra)
    for source in range(len(marked)):
        for target in range(len(marked)):
            number = min(surplus[source], -surplus[target])
            if number > 0:
                surplus[source] -= number
                surplus[target] += number
                yield source, target, number


def _deal_examples(samples: Samples) -> None:
    """Let the examples follow their samples."""
    here = set(samples.index.tolist())
    left = {name: {i: pairs.pop(i) for i in pairs.keys() - here} for name, pairs in samples.examples.items()}
    for part in gather_objects(left):
        for name, pairs in part.items():
            samples.examples[name].update({i: pair for i, pair in pairs.items() if i in here})


def _send(column: Tensor, rows: Tensor, stay: Tensor, target: int, device: torch.device) -> Tensor:
    torch.distributed.send(_bytes(column[rows]).to(device), target)
    return column[stay]


def _receive(column: Tensor, number: int, source: int, device: torch.device) -> Tensor:
    space = column.new_empty(number, *column.shape[1:])
    arrived = torch.empty_like(_bytes(space), device=device)
    torch.distributed.recv(arrived, source)
    return torch.cat([column, arrived.cpu().view(column.dtype).view_as(space)])


def _bytes(value: Tensor) -> Tensor:
    # backends do not send every dtype, but all send bytes
    return value.contiguous().flatten().view(torch.uint8)
