"""Which dataset positions an evaluation's batches hold, and which of them count on this rank."""

from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import BatchSampler, DistributedSampler, IterableDataset, RandomSampler, SequentialSampler

from lightning_robust.runtime.ranks import gather_objects


class Positions:
    """Counts through one loader of the evaluation loop, so that no sample counts twice.

    A distributed sampler deals position p to rank p mod world size, and repeats some past the end to even out the
    ranks. Where nothing was dealt every rank sees every sample, and rank 0's count. A loader that tells neither is
    taken to have been dealt.

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
        self.dealt = not isinstance(self.sampler, (SequentialSampler, RandomSampler))
        dealt: Any = self.sampler if isinstance(self.sampler, DistributedSampler) else None
        self.n = None if dealt is None else len(dealt.dataset)
        self.rank, self.world_size = trainer.global_rank, trainer.world_size
        self._seen = 0

    @property
    def ordered(self) -> bool:
        """Whether positions follow the dataset."""
        return in_order(self.loader)

    @property
    def meaningful(self) -> bool:
        """Whether positions say something of the samples: where they stand in the dataset or in a stream."""
        dataset = getattr(self.loader, "dataset", None)
        return self.ordered or self.sampler is None or isinstance(dataset, IterableDataset)

    def next(self, b: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Of the next b samples the positions [b], and which of them count [b]."""
        first, self._seen = self._seen, self._seen + b
        position = torch.arange(first, first + b, device=device)
        if not self.dealt:
            return position, torch.full_like(position, self.rank == 0, dtype=torch.bool)
        position = position * self.world_size + self.rank
        return position, torch.ones_like(position, dtype=torch.bool) if self.n is None else position < self.n


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
