"""Batches with a fixed share of samples from a second part of the dataset."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_robust.data.epoch_sampler import EpochSampler


class MixedSampler(EpochSampler):
    """Sampler of batches of which a fixed share is drawn from a second part of the dataset, with replacement.

    The rest of each batch comes from permutations of the first part, one after another; the few samples by which a
    permutation does not divide are left out of it. The samples of a batch are shuffled.

    Args:
        dataset: the dataset to sample: first the samples of the first part, then those of the second.
        first_size: number of samples in the first part.
        fraction: share of the second part in each batch, in (0, 1]; with 1 the first part only gives an epoch's length.
        batch_size: samples of a step on each rank.
        seed: seed of the order.
        world_size: number of ranks.
        rank: this process's rank.
        epoch_size: samples of an epoch, rounded up to whole batches; by default as many as the first part has.

    Raises:
        ValueError: if a batch cannot have this share, or the first part is too small for one batch.

    Example:
        >>> sampler = MixedSampler(range(100), first_size=8, fraction=0.5, batch_size=4, seed=0)
        >>> batches = torch.tensor([position for position, seed in sampler]).view(2, 4)
        >>> (batches >= 8).sum(1)
        tensor([2, 2])

    Reference: robust self-training, yaircarmon/semisup-adv@3f05b28; generated data, wzekai99/DM-Improves-AT@b390f25.
    Deviates: from the latter where a permutation does not divide: its last batch has fewer samples of the first part
    and more of the second (6, 6, 6, 2 of 20), here every batch has the same share.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        first_size: int,
        fraction: float,
        batch_size: int,
        seed: int,
        world_size: int = 1,
        rank: int = 0,
        epoch_size: int | None = None,
    ) -> None:
        super().__init__(dataset, seed, world_size, rank)
        self.first_size = first_size
        self.global_batch_size = batch_size * world_size
        self.from_second = round(fraction * self.global_batch_size)
        self.from_first = self.global_batch_size - self.from_second
        self.num_batches = -(-(epoch_size or first_size) // self.global_batch_size)
        self.num_samples = self.num_batches * batch_size
        both_parts = 0 < self.from_second < self.global_batch_size
        if not (both_parts or fraction == 1) or self.from_first > first_size:
            raise ValueError(
                f"Batches of {self.global_batch_size} cannot hold a share of {fraction} drawn from the second part and "
                f"the rest from {first_size} samples: choose another batch_size or fraction (in (0, 1])."
            )

    def order(self, generator: torch.Generator) -> Tensor:
        """Draw the positions of one epoch, batch after batch, for all ranks together."""
        first = self._first(generator)
        shape = (self.num_batches, self.from_second)
        second = torch.randint(self.first_size, len(self.dataset), shape, generator=generator)  # type: ignore[arg-type]
        batches = torch.cat([first, second], dim=1)
        shuffled = [batch[torch.randperm(self.global_batch_size, generator=generator)] for batch in batches]
        return torch.stack(shuffled).flatten()

    def _first(self, generator: torch.Generator) -> Tensor:
        """Draw the positions of the first part [batches, n]."""
        if not self.from_first:
            return torch.empty(self.num_batches, 0, dtype=torch.int64)
        in_pass = self.first_size // self.from_first  # batches of one permutation
        passes = [
            torch.randperm(self.first_size, generator=generator)[: in_pass * self.from_first]
            for _ in range(-(-self.num_batches // in_pass))
        ]
        return torch.cat(passes).view(-1, self.from_first)[: self.num_batches]
