"""Loading that is the same on any number of processes and after a restart."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lightning_robust.draws import derive_seed

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
        if isinstance(key, int):
            x, y = self.dataset[key][:2]
            return x, y, key
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
    """

    def __init__(self, dataset: Dataset[Any], seed: int, world_size: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=True, seed=seed, drop_last=True)
        self.num_samples = len(dataset) // world_size  # type: ignore[arg-type]
        self.skip = 0

    def __iter__(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        order = torch.randperm(len(self.dataset), generator=generator)  # type: ignore[arg-type]
        mine = order[self.rank : self.num_samples * self.num_replicas : self.num_replicas][self.skip :].tolist()
        self.skip = 0
        return ((i, derive_seed(self.seed, self.epoch, i)) for i in mine)

    def __len__(self) -> int:
        return self.num_samples


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
