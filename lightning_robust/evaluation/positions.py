"""Which dataset positions an evaluation's batches hold, and which of them count on this rank."""

from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import BatchSampler, DistributedSampler, IterableDataset, SequentialSampler

from lightning_robust.evaluation.checksums import checksums
from lightning_robust.runtime.ranks import gather_objects, rank
from lightning_robust.types import Batch


class Positions:
    """Counts through one loader of the evaluation loop, so that no sample counts twice.

    A distributed sampler, also one that a batch sampler draws from, deals position p to rank p mod world size, and
    repeats some past the end to even out the ranks. Of other loaders the first sample tells: where all ranks hold the
    same one they all see every sample, and rank 0's count; where each holds another one, the ranks' shares were cut by
    hand, and all count.

    Args:
        trainer: in its evaluation loop.
        i: which of its loaders.

    Raises:
        ValueError: for several loaders that are drawn from at once, whose shorter ones may repeat.
    """

    def __init__(self, trainer: Trainer, i: int) -> None:
        loop: Any = trainer._evaluation_loop
        several: Any = loop._combined_loader
        if len(several.flattened) > 1 and several._mode != "sequential":
            raise ValueError(
                f"Evaluation draws from {len(several.flattened)} data loaders at once (CombinedLoader in mode "
                f"{several._mode!r}): give the trainer a list of them, which it goes through one after the other."
            )
        self.loader = several.flattened[i]
        self.sampler: Any = getattr(self.loader, "sampler", None)
        within = getattr(getattr(self.loader, "batch_sampler", None), "sampler", None)
        dealt: Any = next((s for s in (self.sampler, within) if isinstance(s, DistributedSampler)), None)
        self.n = None if dealt is None else len(dealt.dataset)
        self.rank, self.world_size = trainer.global_rank, trainer.world_size
        self._dealt = True if self.n is not None or self.world_size == 1 else None  # None: the first batch tells
        self._seen = 0

    @property
    def ordered(self) -> bool:
        """Whether positions follow the dataset."""
        return in_order(self.loader) and not self.cut_by_hand

    @property
    def cut_by_hand(self) -> bool:
        """Whether each rank has a data set of its own, as far as the first batch has told."""
        return self._dealt is True and self.n is None and self.world_size > 1

    @property
    def meaningful(self) -> bool:
        """Whether positions say something of the samples: where they stand in the dataset or in a stream."""
        dataset = getattr(self.loader, "dataset", None)
        return self.ordered or (not self.cut_by_hand and (self.sampler is None or isinstance(dataset, IterableDataset)))

    def next(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the positions [b] of the next batch's samples, and which of them count [b].

        Of a loader whose sampler does not tell, all ranks read the first batch together.

        Raises:
            ValueError: if some ranks begin with the same sample, and others with another one.
        """
        b, device = len(batch.x), batch.x.device
        if self._dealt is None:
            self._dealt = _are_shares(batch)
        first, self._seen = self._seen, self._seen + b
        position = torch.arange(first, first + b, device=device)
        if not self._dealt:
            return position, torch.full_like(position, self.rank == 0, dtype=torch.bool)
        position = position * self.world_size + self.rank
        return position, torch.ones_like(position, dtype=torch.bool) if self.n is None else position < self.n


def _are_shares(batch: Batch) -> bool:
    """Return whether all ranks begin with samples of their own; all call it together."""
    firsts = gather_objects(checksums(batch.x[:1], batch.y[:1]).tolist())
    different = len({tuple(first) for first in firsts})
    if 1 < different < len(firsts):
        raise ValueError(
            f"The data loaders of {len(firsts)} ranks begin with {different} different samples: it is not known which "
            "count. Deal the samples out by a DistributedSampler, or give every rank all of them."
        )
    return different > 1


def by_content(checksum: Tensor) -> Tensor:
    """Return numbers [n] that identify samples whose place in the dataset is not known; all ranks call it together.

    Args:
        checksum: of this rank's samples [n]; equal ones, on all ranks, are numbered on.
    """
    parts = [part.tolist() for part in gather_objects(checksum)]
    met: dict[int, int] = {}
    numbered: list[list[int]] = []
    for part in parts:
        numbered.append([])
        for value in part:
            met[value] = met.get(value, -1) + 1
            numbered[-1].append(met[value])
    return checksum + torch.tensor(numbered[rank()], dtype=torch.int64)


def refuse_overlap(checksum: Tensor) -> None:
    """Raise where ranks hold the same samples though each should have a share; all ranks call it together.

    Args:
        checksum: of this rank's samples [n].

    Raises:
        ValueError: saying how many samples several ranks hold.
    """
    ranks: dict[int, set[int]] = {}
    for number, part in enumerate(gather_objects(checksum)):
        for value in part.tolist():
            ranks.setdefault(value, set()).add(number)
    twice = sum(len(where) > 1 for where in ranks.values())
    if twice:
        raise ValueError(
            f"{twice} of the {len(ranks)} samples lie on several ranks, and nothing says whether they are repeats that "
            "even out the shares: let a DistributedSampler deal them out, or give their positions by index_key."
        )


def in_order(loader: Any) -> bool:
    """Return whether a data loader is known to give the samples in the order of the dataset, or a rank's share of them.

    Args:
        loader: the data loader, as the trainer holds it.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> in_order(DataLoader(range(4))), in_order(DataLoader(range(4), shuffle=True))
        (True, False)
    """
    sampler = getattr(loader, "sampler", None)
    batches: Any = getattr(loader, "batch_sampler", None)
    batches = getattr(batches, "_batch_sampler", batches)  # Lightning's `predict` wraps it
    if batches is not None:
        sampler = batches.sampler if type(batches) is BatchSampler else None
    if isinstance(sampler, DistributedSampler):
        return not sampler.shuffle
    return isinstance(sampler, SequentialSampler)


def refuse_repeats(index: Tensor) -> None:
    """Raise where a position stands several times among the samples of all ranks, which call it together.

    Args:
        index: positions [n] of this rank's samples.

    Raises:
        ValueError: naming a position and how often it stands there.
    """
    values, counts = torch.unique(torch.cat(gather_objects(index)), return_counts=True)
    if len(values) and int(counts.max()) > 1:
        worst = int(counts.argmax())
        raise ValueError(
            f"Position {int(values[worst])} in the dataset stands {int(counts[worst])} times in the data loader: let "
            "its sampler give each sample once, and index_key name positions, not a domain or a label."
        )
