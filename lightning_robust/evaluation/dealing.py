"""Load balancing: deals the samples that still have to be attacked out evenly over the ranks."""

import math
from collections.abc import Iterator

import torch
import torch.distributed
from torch import Tensor

from lightning_robust.evaluation.images import Images
from lightning_robust.evaluation.samples import Samples
from lightning_robust.runtime.ranks import gather_objects, world_size

_PIECE = 2**26
"""Bytes of images, as floats, that are on their way at a time: the rest is held once, by the rank that has it."""


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
            _send(samples, rows, target, device)
            changed = samples[stay]
        elif rank == target:
            changed = Samples.join([samples, _receive(samples, number, source, device)])
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


def _send(samples: Samples, rows: Tensor, target: int, device: torch.device) -> None:
    """Send the samples at these rows to a rank, the images piece by piece."""
    for column in samples.tensors():
        torch.distributed.send(_bytes(column[rows]).to(device), target)
    for some in _pieces(samples.x, rows):
        torch.distributed.send(_bytes(samples.x.read(some, device)), target)


def _receive(samples: Samples, number: int, source: int, device: torch.device) -> Samples:
    """Return as many samples, of the kind of these, that a rank sends."""
    arrived, images = samples.empty(number), []
    for column in arrived.tensors():
        column.copy_(_received(column, source, device))
    for some in _pieces(arrived.x, torch.arange(number)):
        space = torch.empty(len(some), *arrived.x.size, dtype=arrived.x.dtype)
        images.append(Images.of(_received(space, source, device), samples.x.store))
    arrived.x = Images.join(images)
    return arrived


def _pieces(images: Images, rows: Tensor) -> tuple[Tensor, ...]:
    """Split rows so that the images of each part take about `_PIECE` bytes."""
    return torch.split(rows, max(1, _PIECE // max(1, math.prod(images.size) * images.dtype.itemsize)))


def _received(like: Tensor, source: int, device: torch.device) -> Tensor:
    """Return a tensor of this type and shape that a rank sends."""
    arrived = torch.empty_like(_bytes(like), device=device)
    torch.distributed.recv(arrived, source)
    return arrived.view(like.dtype).view_as(like)


def _bytes(value: Tensor) -> Tensor:
    # backends do not send every dtype, but all send bytes
    return value.contiguous().flatten().view(torch.uint8)
