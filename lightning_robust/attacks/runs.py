"""Several runs of an attack for each sample (restarts, target classes), side by side in one batch."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_robust.attacks import progress


class Runs:
    """Yields the runs of each sample, the first runs first, in batches of as many rows as there is room for.

    There is room for as many rows as the batch has samples, or for what `progress.room_for` says if that is more. A
    sample is settled by the first of its runs that succeeds: its later runs are dropped, its earlier ones go on and may
    settle it instead. So the result does not depend on how many runs go side by side.

    Args:
        needed: which samples [b] are to be run at all.
        count: number of runs, of each sample [b] or of all.
    """

    def __init__(self, needed: Tensor, count: Tensor | int) -> None:
        self.count = torch.where(needed, count, 0)
        """The number of runs of each sample [b]."""
        self.first = self.count.clone()
        """The run that settled each sample [b] so far; `count` where none has."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the rows of each batch: positions of samples, and numbers of runs."""
        room = max(len(self.first), progress.room(), 1)
        most = int(self.count.max()) if len(self.count) else 0
        run, row = torch.nonzero(torch.arange(most, device=self.first.device)[:, None] < self.first).unbind(1)
        total = -(-len(row) // room)
        while len(row):
            with progress.part(total - -(-len(row) // room), total):
                yield row[:room], run[:room]
            row, run = row[room:], run[room:]
            open_ = self.open(row, run)
            row, run = row[open_], run[open_]

    def settle(self, row: Tensor, run: Tensor) -> None:
        """Record that these runs of the samples at positions `row` have succeeded."""
        self.first.scatter_reduce_(0, row, run, "amin")

    def open(self, row: Tensor, run: Tensor) -> Tensor:
        """Return which of these runs have not succeeded and come before all runs of the sample that have."""
        return run < self.first[row]
