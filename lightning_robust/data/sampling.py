"""Loading that is the same on any number of processes and after a restart."""

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lightning_robust.runtime.rng import derive_seed

Key = int | tuple[int, int]
"""A dataset position, or a position with the seed of its augmentation."""


class Indexed(Dataset[tuple[Any, Any, int]]):
    """A dataset of (x, y) as one of (x, y, position), for methods that remember something for each sample.

    Reached through `EpochSampler`, a sample's random augmentation depends only on (seed, epoch, position): not on the
    worker, the rank or a restart. (It must draw from torch's generator, as torchvision's v2 transforms do.)
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> tuple[Any, Any, int]:
        if not isinstance(key, tuple):
            index = range(len(self))[operator.index(key)]  # of NumPy's and torch's integers too, and from the end
            x, y = self.dataset[index][:2]
            return x, y, index
        index, seed = key
        state = torch.default_generator.get_state()  # torch.manual_seed would seed every device, for a millisecond
        try:
            torch.default_generator.manual_seed(seed)
            x, y = self.dataset[index][:2]
        finally:
            torch.default_generator.set_state(state)
        return x, y, index


class EpochSampler(DistributedSampler[Any]):
    """A permutation made of (seed, epoch), dealt out to the ranks in turn.

    Batch j of all ranks together is the same set of samples whatever their number. Nothing repeats within an epoch: the
    few samples that do not divide by the number of ranks sit this epoch out.

    Args:
        dataset: what is sampled (only its length is used).
        seed: of the permutation.
        world_size: number of ranks.
        rank: this one.
        batch_size: samples a step on each rank. A last batch of a single one sits out too: batch norms cannot take it,
            and it would move the weights as far as a whole one.
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
        """Positions of one epoch, over all ranks."""
        return torch.randperm(len(self.dataset), generator=generator)  # type: ignore[arg-type]


class MixedSampler(EpochSampler):
    """Batches of which a fixed share is drawn from a second part of the dataset, with replacement.

    The rest is dealt from a permutation of the first part; both are shuffled within the batch. An epoch has as many
    samples as the first part.

    Args:
        dataset: what is sampled: first the `first` samples of the first part, then those of the second.
        first: number of samples of the first part.
        fraction: share of the second part in each batch, in (0, 1).
        batch_size: samples a step on each rank.
        seed: of the order.
        world_size: number of ranks.
        rank: this one.

    Reference: robust self-training, yaircarmon/semisup-adv@3f05b28.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        first: int,
        fraction: float,
        batch_size: int,
        seed: int,
        world_size: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(dataset, seed, world_size, rank)
        self.first, self.batch = first, batch_size * world_size
        self.drawn = round(fraction * self.batch)
        self.batches = -(-first // self.batch)
        self.num_samples = self.batches * batch_size
        if not 0 < self.drawn < self.batch or self.batches * (self.batch - self.drawn) > first:
            raise ValueError(
                f"Batches of {self.batch} cannot hold a share of {fraction} drawn from the second part and the rest "
                f"from {first} samples: choose a smaller batch_size, or a fraction between 0 and 1."
            )

    def order(self, generator: torch.Generator) -> Tensor:
        """Positions of one epoch, batch after batch, over all ranks."""
        dealt = torch.randperm(self.first, generator=generator)[: self.batches * (self.batch - self.drawn)]
        shape = (self.batches, self.drawn)
        drawn = torch.randint(self.first, len(self.dataset), shape, generator=generator)  # type: ignore[arg-type]
        mixed = torch.cat([dealt.view(self.batches, -1), drawn], dim=1)
        return torch.stack([row[torch.randperm(self.batch, generator=generator)] for row in mixed]).flatten()


class ResumableLoader(DataLoader[Any]):
    """A loader over an `EpochSampler` that goes on mid-epoch where its state was taken.

    Lightning stores and restores the state with the checkpoint; skipped samples are not loaded.
    """

    sampler: EpochSampler
    _state: tuple[int, int] = (-1, 0)
    _yielded: int = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        epoch, batches = self._state
        self._state = (-1, 0)
        self._yielded = batches if epoch == self.sampler.epoch and batches < len(self) else 0
        self.sampler.skip = self._yielded * (self.batch_size or 1)
        for batch in super().__iter__():
            self._yielded += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Epoch, and batches of it handed out."""
        epoch, batches = self._state if self._state[0] >= 0 else (self.sampler.epoch, self._yielded)
        return {"epoch": epoch, "batches": batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip those batches when this epoch is next iterated."""
        self._state = (state["epoch"], state["batches"])
