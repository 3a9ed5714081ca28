"""Batches with a fixed share of samples from a second part of the dataset."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_robust.data.epoch_sampler import EpochSampler


class MixedSampler(EpochSampler):
    """Sampler of batches of which a fixed share is drawn from a second part of the dataset, with replacement.

    The rest of each batch comes from a permutation of the first part; the samples of a batch are shuffled. An epoch has
    about as many samples as the first part.

    Args:
        dataset: the dataset to sample: first the samples of the first part, then those of the second.
        first_size: number of samples in the first part.
        fraction: share of the second part in each batch, in (0, 1).
        batch_size: samples of a step on each rank.
        seed: seed of the order.
        world_size: number of ranks.
        rank: this process's rank.

    Raises:
        ValueError: if a batch cannot have this share, or the first part is too small for one epoch.

    Example:
        >>> sampler = MixedSampler(range(100), first_size=8, fraction=0.5, batch_size=4, seed=0)
        >>> batches = torch.tensor([position for position, seed in sampler]).view(2, 4)
        >>> (batches >= 8).sum(1)
        tensor([2, 2])

    Reference: robust self-training, yaircarmon/semisup-adv@3f05b28.
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
    ) -> None:
        super().__init__(dataset, seed, world_size, rank)
        self.first_size = first_size
        self.global_batch_size = batch_size * world_size
        self.from_second = round(fraction * self.global_batch_size)
        self.from_first = self.global_batch_size - self.from_second
        self.num_batches = -(-first_size // self.global_batch_size)
        self.num_samples = self.num_batches * batch_size
        both_parts = 0 < self.from_second < self.global_batch_size
        if not both_parts or self.num_batches * self.from_first > first_size:
            raise ValueError(
                f"Batches of {self.global_batch_size} cannot hold a share of {fraction} drawn from the second part and "
                f"the rest from {first_size} samples: choose a smaller batch_size, or a fraction between 0 and 1."
            )

    def order(self, generator: torch.Generator) -> Tensor:
        """Draw the positions of one epoch, batch after batch, for all ranks together."""
        first = torch.randperm(self.first_size, generator=generator)[: self.num_batches * self.from_first]
        shape = (self.num_batches, self.from_second)
        second = torch.randint(self.first_size, len(self.dataset), shape, generator=generator)  # type: ignore[arg-type]
        batches = torch.cat([first.view(self.num_batches, -1), second], dim=1)
        shuffled = [batch[torch.randperm(self.global_batch_size, generator=generator)] for batch in batches]
        return torch.stack(shuffled).flatten()
