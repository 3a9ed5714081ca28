"""Which dataset positions an evaluation's batches hold, and which of them count on this rank."""

from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import DistributedSampler, RandomSampler, SequentialSampler


class Positions:
    """Counts through one loader of the evaluation loop, so that no sample counts twice.

    A distributed sampler deals position p to rank p mod world size, and repeats some past the end to even out the
    ranks. Where nothing was dealt every rank sees every sample, and rank 0's count. A loader that tells neither is
    taken to have been dealt.

    Args:
        trainer: in its evaluation loop.
        i: which of its loaders.
    """

    def __init__(self, trainer: Trainer, i: int) -> None:
        loop: Any = trainer._evaluation_loop
        self.loader = loop._combined_loader.flattened[i]
        self.sampler: Any = getattr(self.loader, "sampler", None)
        self.dealt = not isinstance(self.sampler, (SequentialSampler, RandomSampler))
        dealt: Any = self.sampler if isinstance(self.sampler, DistributedSampler) else None
        self.n = None if dealt is None else len(dealt.dataset)
        self.rank, self.world_size = trainer.global_rank, trainer.world_size
        self._seen = 0

    @property
    def ordered(self) -> bool:
        """Whether positions follow the dataset."""
        if isinstance(self.sampler, DistributedSampler):
            return not self.sampler.shuffle
        return isinstance(self.sampler, SequentialSampler)

    def next(self, b: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Of the next b samples the positions [b], and which of them count [b]."""
        first, self._seen = self._seen, self._seen + b
        position = torch.arange(first, first + b, device=device)
        if not self.dealt:
            return position, torch.full_like(position, self.rank == 0, dtype=torch.bool)
        position = position * self.world_size + self.rank
        return position, torch.ones_like(position, dtype=torch.bool) if self.n is None else position < self.n
