"""The samples under evaluation and what is known of each, spread over the ranks."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.distributed
from torch import Tensor

from lightning_robust.evaluation.verdicts import Verdicts
from lightning_robust.runtime.ranks import gather_objects, world_size


@dataclass
class Samples:
    """The n samples of one rank and what is known of each, on the CPU whatever device evaluates.

    Args:
        index: position of each sample in the dataset [n].
        y: labels [n].
        clean: classes that the net predicts on the clean images [n].
        checksum: identifies image and label [n], see `checksums`.
        shown: whether the sample is drawn in the figure of examples [n].
        x: clean images [n c h w]; [n 0] where they are not needed any more.
        verdicts: what each attack has found, by the attack's name.
    """

    index: Tensor
    y: Tensor
    clean: Tensor
    checksum: Tensor
    shown: Tensor
    x: Tensor
    verdicts: dict[str, Verdicts] = field(default_factory=dict)

    @classmethod
    def join(cls, batches: list["Samples"]) -> "Samples":
        """Concatenate batches and empty the list on the way, so that the images are never held twice."""
        n = sum(map(len, batches))
        done = 0
        joined = batches[0].map(lambda column: column.new_empty(n, *column.shape[1:]))
        while batches:
            batch = batches.pop(0)
            for whole, part in zip(joined.tensors(), batch.tensors(), strict=True):
                whole[done : done + len(batch)] = part
            done += len(batch)
        return joined

    @classmethod
    def collect(cls, batches: list["Samples"]) -> "Samples":
        """Join each rank's batches; all ranks call it, one without batches learns the images' shape from the others."""
        # new_empty and not a slice, which would be sent with all of its storage
        shapes = [batch.map(lambda column: column.new_empty(0, *column.shape[1:])) for batch in batches[:1]]
        known = [empty for part in gather_objects(shapes) for empty in part]
        return cls.join(batches or known[:1])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Tensor) -> "Samples":
        """Select samples by a mask or by positions."""
        return self.map(lambda column: column[rows])

    def map(self, change: Callable[[Tensor], Tensor]) -> "Samples":
        """Apply a function to every column, the verdicts' included."""
        columns = {name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Samples(**columns, verdicts={name: verdicts.map(change) for name, verdicts in self.verdicts.items()})

    def tensors(self) -> list[Tensor]:
        """All columns, the verdicts' last, in the same order on every rank."""
        columns = [value for value in vars(self).values() if isinstance(value, Tensor)]
        return columns + [column for verdicts in self.verdicts.values() for column in vars(verdicts).values()]

    @property
    def right(self) -> Tensor:
        """Which samples [n] are classified correctly without an attack."""
        return self.clean == self.y

    def robust(self, attacks: Iterable[str] | None = None) -> Tensor:
        """Which samples [n] are classified correctly and have been broken by none of these attacks, by default all."""
        names = self.verdicts if attacks is None else attacks
        return torch.stack([self.right, *(self.verdicts[name].standing for name in names)]).all(0)

    def light(self) -> "Samples":
        """Leave out the images."""
        return replace(self, x=self.x.new_empty(len(self), 0))

    def stages_done(self) -> Tensor:
        """How many stages each sample [n] has been through, all attacks together."""
        return sum((verdicts.done.long() for verdicts in self.verdicts.values()), torch.zeros_like(self.index))

    def deal(self, which: Tensor, device: torch.device) -> None:
        """Move rows between ranks until all have the same number of marked ones (but for one).

        Args:
            which: marks the rows that may move [n].
            device: the rank's device, through which NCCL sends.
        """
        if world_size() == 1:
            return
        rank = torch.distributed.get_rank()
        if "gloo" in torch.distributed.get_backend():
            device = torch.device("cpu")
        for source, target, number in moves(gather_objects(int(which.sum()))):
            if rank == source:
                rows = torch.nonzero(which)[:, 0][-number:]
                stay = torch.ones(len(self), dtype=torch.bool)
                stay[rows] = False
                which = which[stay]
                changed = self.map(partial(_send, rows=rows, stay=stay, target=target, device=device))
            elif rank == target:
                changed = self.map(partial(_receive, number=number, source=source, device=device))
            else:
                continue
            vars(self).update(vars(changed))

    def gather(self) -> "Samples":
        """Gather all ranks' samples without the images, in the order of `index`, on every rank."""
        whole = Samples.join(gather_objects(self.light()))
        return whole[whole.index.argsort()]


def moves(marked: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (source, target, number): which rank sends how many rows to which, so that all have as many (but for one).

    The number of rows that move is the smallest possible.

    Args:
        marked: how many rows each rank has that may move.

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
