"""Every way of dealing the samples out to ranks gives the counts of one rank, or is refused."""

import csv
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.data import Indexed
from lightning_robust.defenses import Standard
from lightning_robust.evaluation.checksums import checksums
from lightning_robust.threat import Threat
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import plain_net
from tests.helpers.foreign import ForeignModule, images, loader

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


def alike(rank: int, ranks: int) -> Any:
    """Shares of a data set whose first and second sample are the same."""
    x, y = images(N).tensors
    x[1], y[1] = x[0], y[0]
    return Subset(TensorDataset(x, y), list(range(rank, N, ranks)))


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
    "a share without samples": lambda rank, ranks: DataLoader(Stream(0 if rank == 0 else N, 1), 4),
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


def twins(rank: int, ranks: int) -> Any:
    """A distributed sampler of one rank, on each."""
    return DataLoader(images(N), 4, sampler=DistributedSampler(images(N), 1, 0, shuffle=False))


@pytest.mark.parametrize(
    ("make", "ranks", "told"),
    [
        (overlapping, 2, "1 of the 21 samples lie on several ranks"),
        (lambda rank, ranks: DataLoader(alike(rank, ranks), 4), 2, "1 of the 20 samples lie on several ranks"),
        (partly, 3, "10 of the 21 samples lie on several ranks"),
        (twins, 2, "deals samples out to 1 ranks and is that of rank 0, but this is rank 1 of 2"),
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
    found = next(iter(evaluation._loaders.values())).samples
    return dict(zip(found.checksum.tolist(), found.verdicts["pgd"].predicted.tolist(), strict=True))


def test_without_positions_random_numbers_belong_to_the_content(tmp_path: Path) -> None:
    """So a shuffled loader of (x, y) gives each sample its verdict, whatever the order."""
    first = evaluated(images(N), list(range(N)), tmp_path / "a")
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1)).tolist()
    assert evaluated(images(N), order, tmp_path / "b") == first
    assert len(first) == N


class Reversed(Sampler[int]):
    """Someone's own order, which Lightning deals out by a wrapper of its own."""

    def __iter__(self) -> Any:
        return iter(range(N - 1, -1, -1))

    def __len__(self) -> int:
        return N


@pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders")
@pytest.mark.filterwarnings("ignore:Your `test_dataloader`'s sampler has shuffling enabled")
def test_an_own_order_that_lightning_deals_out_is_no_order_of_the_dataset(tmp_path: Path) -> None:
    """In one order on all ranks each sample counts once, without an index; an order of each rank's own is refused."""

    def run(sampler: Any) -> Any:
        def on(rank: int) -> Any:
            torch.manual_seed(rank)
            evaluation = RobustEvaluation({"pgd": PGD(Threat(eps=0.12), steps=1)}, figure_samples=0, check_samples=0)
            trainer = ddp_trainer(default_root_dir=tmp_path, callbacks=[evaluation])
            trainer.test(ForeignModule(), DataLoader(images(N), 4, sampler=sampler), verbose=False)
            loader = next(iter(evaluation._loaders.values()))
            return loader.indexed, sorted(loader.samples.checksum.tolist())

        return run_ddp(on)

    assert run(Reversed()) == [(False, sorted(checksums(*images(N).tensors).tolist()))] * 2
    with pytest.raises(AssertionError, match=r"\d+ of the \d+ samples lie on several ranks"):
        run(SubsetRandomSampler(range(N)))


def test_a_module_keeps_no_loader(tmp_path: Path) -> None:
    """So that it can be pickled and copied after a validation."""
    defense = Standard(plain_net())
    loader = DataLoader(images(N), 4, collate_fn=lambda samples: default_collate(samples))
    quiet_trainer(default_root_dir=tmp_path).validate(defense, loader, verbose=False)
    assert len(pickle.dumps(defense._clean)) < 1000


def test_a_limit_inside_fit_counts_the_same_samples_in_shares(tmp_path: Path) -> None:
    def on(rank: int, ranks: int) -> Any:
        evaluation = RobustEvaluation({"pgd": PGD(Threat(eps=0.12), steps=1)}, fit_samples=6, figure_samples=0)
        trainer = ddp_trainer(
            ranks, default_root_dir=tmp_path, callbacks=[evaluation], use_distributed_sampler=False, max_epochs=1
        )
        trainer.fit(ForeignModule(), loader(8), DataLoader(shares(rank, ranks), 4))
        return sorted(next(iter(evaluation._loaders.values())).samples.checksum.tolist())

    one = run_ddp(lambda rank: on(rank, 1), ranks=1)
    assert len(one[0]) == 6
    assert run_ddp(lambda rank: on(rank, 2)) == one * 2
