"""Every way of dealing the samples out to ranks gives the counts of one rank, or is refused."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, IterableDataset, Subset

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.data import Indexed
from lightning_robust.threat import Threat
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.foreign import ForeignModule, images

N = 21


class Stream(IterableDataset[Any]):
    """The samples from `first` on, every `step`-th."""

    def __init__(self, first: int = 0, step: int = 1) -> None:
        self.first, self.step = first, step

    def __iter__(self) -> Any:
        data = images(N)
        return (data[i] for i in range(self.first, N, self.step))


class Bucketed(BatchSampler):
    """Someone's own batch sampler: batches of two in the sampler's order."""

    def __iter__(self) -> Any:
        yield from BatchSampler(self.sampler, self.batch_size, self.drop_last)


def shares(rank: int, ranks: int, dataset: Any = None) -> Any:
    return Subset(images(N) if dataset is None else dataset, list(range(rank, N, ranks)))


def sampled(kind: Any, rank: int, ranks: int, shuffle: bool = False) -> Any:
    sampler = DistributedSampler(images(N), ranks, rank, shuffle=shuffle)
    return DataLoader(images(N), batch_sampler=kind(sampler, 2, False))


# what rank `rank` of `ranks` loads; Lightning deals nothing out
DEALT: dict[str, Any] = {
    "sampler in a batch sampler": lambda rank, ranks: sampled(BatchSampler, rank, ranks),
    "sampler in an own batch sampler": lambda rank, ranks: sampled(Bucketed, rank, ranks),
    "shares cut by hand": lambda rank, ranks: DataLoader(shares(rank, ranks), 4),
    "shares of a shuffled loader": lambda rank, ranks: DataLoader(shares(rank, ranks), 4, shuffle=True),
    "shares with positions": lambda rank, ranks: DataLoader(shares(rank, ranks, Indexed(images(N))), 4),
    "stream for each": lambda rank, ranks: DataLoader(Stream(rank, ranks), 4),
    "one stream for all": lambda rank, ranks: DataLoader(Stream(), 4),
    "everything for all": lambda rank, ranks: DataLoader(images(N), 4),
}


def results(make: Any, ranks: int, folder: Path) -> Any:
    """Counts, and what was found of each sample, in an order that does not depend on the loader's."""

    def on(rank: int) -> Any:
        attack = PGD(Threat(eps=0.12), steps=2, step_size=0.03)  # a random start, whose numbers are the sample's own
        evaluation = RobustEvaluation({"pgd": attack}, figure_samples=0, check_samples=0)
        settings: dict[str, Any] = {"default_root_dir": folder / str(ranks), "callbacks": [evaluation]}
        trainer = ddp_trainer(ranks, use_distributed_sampler=False, **settings)
        trainer.test(ForeignModule(), make(rank, ranks), verbose=False)
        report = next(iter(evaluation._loaders.values())).report
        return report["n"], report["clean"]["correct"], report["worst"]["correct"]

    counts = run_ddp(on, ranks=ranks)
    with next((folder / str(ranks)).glob("samples.csv")).open() as file:
        rows = [tuple(v for k, v in row.items() if k != "index") for row in csv.DictReader(file)]
    return counts, sorted(rows)


# Lightning's advice on evaluation: on one device, in order
@pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders")
@pytest.mark.filterwarnings("ignore:Your `test_dataloader`'s sampler has shuffling enabled")
@pytest.mark.parametrize("kind", DEALT)
def test_two_ranks_find_what_one_finds(kind: str, tmp_path: Path) -> None:
    one, rows = results(DEALT[kind], 1, tmp_path)
    assert one[0][0] == N
    assert 0 < one[0][2] < one[0][1]
    two, same = results(DEALT[kind], 2, tmp_path)
    assert two == one * 2
    assert same == rows


def overlapping(rank: int, ranks: int) -> Any:
    """Shares that were evened out by repeating the first sample, as nothing tells."""
    return DataLoader(Subset(images(N), [*range(rank, N, ranks), *([0] if rank else [])]), 4)


def partly(rank: int, ranks: int) -> Any:
    return DataLoader(shares(min(rank, 1), 2), 4)


@pytest.mark.parametrize(
    ("make", "ranks", "told"),
    [
        (overlapping, 2, "1 of the 21 samples lie on several ranks"),
        (partly, 3, "ranks begin with 2 different samples"),
    ],
)
def test_what_cannot_be_told_is_refused(make: Any, ranks: int, told: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=re.escape(told)):
        results(make, ranks, tmp_path)


def evaluated(data: Dataset[Any], order: list[int], folder: Path) -> Any:
    attack = PGD(Threat(eps=0.12), steps=2, step_size=0.03)
    evaluation = RobustEvaluation({"pgd": attack}, figure_samples=0, check_samples=0)
    trainer = quiet_trainer(default_root_dir=folder, callbacks=[evaluation])
    trainer.test(ForeignModule(), DataLoader(data, 4, sampler=order), verbose=False)
    found = next(iter(evaluation._loaders.values())).found
    return dict(zip(found.checksum.tolist(), found.verdicts["pgd"].predicted.tolist(), strict=True))


def test_without_positions_random_numbers_belong_to_the_content(tmp_path: Path) -> None:
    """So a shuffled loader of (x, y) gives each sample its verdict, whatever the order."""
    first = evaluated(images(N), list(range(N)), tmp_path / "a")
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1)).tolist()
    assert evaluated(images(N), order, tmp_path / "b") == first
    assert len(first) == N
