"""The samples under evaluation and what is known of each: a table that is spread over the ranks."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from lightning_robust.runtime.ranks import world_size

HEAVY = "x"
"""The column that is neither gathered nor written to disk."""


class Samples:
    """Columns of equal length, one row a sample of this rank: images "x", and whatever else is put there.

    On the CPU, whatever device evaluates.
    """

    def __init__(self) -> None:
        self.columns: dict[str, Tensor] = {}
        self._batches: list[dict[str, Tensor]] = []

    def append(self, rows: Mapping[str, Tensor]) -> None:
        """Add a batch of rows; every batch has the same columns."""
        self._batches.append({name: value.detach().cpu() for name, value in rows.items()})

    def settle(self) -> None:
        """Join what was appended, on all ranks together: one that has no rows learns their columns from the others."""
        n, done = sum(len(batch["index"]) for batch in self._batches), 0
        self.columns = {name: v.new_empty(n, *v.shape[1:]) for name, v in (self._batches or [{}])[0].items()}
        while self._batches:  # one after the other, so that the images are never there twice
            batch = self._batches.pop(0)
            for name, value in batch.items():
                self.columns[name][done : done + len(value)] = value
            done += len(batch["index"])
        shapes = {name: (value.dtype, value.shape[1:]) for name, value in self.columns.items()}
        known: dict[str, Any] = next(filter(None, gather_objects(shapes)), {})
        if not self.columns:
            self.columns = {name: torch.empty(0, *shape, dtype=dtype) for name, (dtype, shape) in known.items()}

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, column: str) -> Tensor:
        return self.columns[column]

    def __setitem__(self, column: str, value: Tensor) -> None:
        self.columns[column] = value

    def light(self) -> dict[str, Tensor]:
        """All columns but the images."""
        return {name: value for name, value in self.columns.items() if name != HEAVY}

    def deal(self, which: Tensor, device: torch.device) -> None:
        """Move rows between ranks until all have the same number of marked ones (but for one).

        Args:
            which: marks [n] the rows that may move.
            device: of the rank.
        """
        if world_size() == 1:
            return
        rank = torch.distributed.get_rank()
        if "gloo" in torch.distributed.get_backend():
            device = torch.device("cpu")
        for source, target, number in moves(gather_objects(int(which.sum()))):
            if rank == source:
                rows = torch.nonzero(which)[:, 0][-number:]
                for value in self.columns.values():
                    torch.distributed.send(_bytes(value[rows]).to(device), target)
                stay = torch.ones(len(self), dtype=torch.bool)
                stay[rows] = False
                self.columns, which = {name: v[stay] for name, v in self.columns.items()}, which[stay]
            elif rank == target:
                for name, value in self.columns.items():
                    space = value.new_empty(number, *value.shape[1:])
                    arrived = torch.empty_like(_bytes(space), device=device)
                    torch.distributed.recv(arrived, source)
                    self.columns[name] = torch.cat([value, arrived.cpu().view(value.dtype).view_as(space)])

    def gather(self) -> dict[str, Tensor]:
        """All ranks' rows of the light columns, in the order of "index", on every rank."""
        parts = gather_objects(self.light())
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        order = whole["index"].argsort()
        return {name: value[order] for name, value in whole.items()}


def gather_objects(mine: Any) -> list[Any]:
    """What each rank gives, in the order of the ranks."""
    if world_size() == 1:
        return [mine]
    everyone: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


def moves(marked: list[int]) -> Iterator[tuple[int, int, int]]:
    """Who sends how many rows to whom, so that all have as many: (source, target, number), the fewest possible.

    Args:
        marked: of each rank the number of rows that may move.
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


def _bytes(value: Tensor) -> Tensor:
    """Backends do not send every type; all send bytes."""
    return value.contiguous().flatten().view(torch.uint8)
