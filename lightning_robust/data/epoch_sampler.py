"""A shuffled order of training that is the same on any number of ranks."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from lightning_robust.runtime.rng import derive_seed


class EpochSampler(DistributedSampler[Any]):
    """Sampler of a permutation made from (seed, epoch), of which every rank takes its share in turn.

    Step j of all ranks together sees the same set of samples whatever their number. No sample is repeated within an
    epoch: the few samples by which the dataset does not divide by the number of ranks are left out of it.

    It yields pairs of position and augmentation seed, as `Indexed` takes them.

    Args:
        dataset: the dataset to sample; only its length is used.
        seed: seed of the permutations.
        world_size: number of ranks.
        rank: this process's rank.
        batch_size: samples of a step on each rank. A last batch of one sample is left out: batch norms cannot take it,
            and it would move the weights as far as a whole batch.

    Example:
        >>> sampler = EpochSampler(range(6), seed=0, world_size=2, rank=0)
        >>> [position for position, seed in sampler]
        [4, 5, 0]
        >>> sampler.set_epoch(1)
        >>> [position for position, seed in sampler]
        [5, 0, 2]
    """

    def __init__(
        self, dataset: Dataset[Any], seed: int, world_size: int = 1, rank: int = 0, batch_size: int = 1
    ) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=True, seed=seed, drop_last=True)
        self.num_samples = len(dataset) // world_size  # type: ignore[arg-type]
        if self.num_samples % batch_size == 1 and self.num_samples > 1:
            self.num_samples -= 1
        self.skip = 0

    def __iter__(self) -> Iterator[Any]:
        order = self.order(torch.Generator().manual_seed(derive_seed(self.seed, self.epoch)))
        mine = order[self.rank : self.num_samples * self.num_replicas : self.num_replicas][self.skip :].tolist()
        self.skip = 0
        return ((i, derive_seed(self.seed, self.epoch, i)) for i in mine)

    def __len__(self) -> int:
        return self.num_samples

    def order(self, generator: torch.Generator) -> Tensor:
        """Draw the positions of one epoch, for all ranks together."""
        return torch.randperm(len(self.dataset), generator=generator)  # type: ignore[arg-type]
