"""Which dataset positions an evaluation's batches hold, and which of them count on this rank."""

from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import BatchSampler, DistributedSampler, IterableDataset, SequentialSampler

from lightning_robust.runtime.ranks import gather_objects, rank
from lightning_robust.utils.private_apis import evaluation_loaders, evaluation_order, inner_batch_sampler, inner_sampler


class Positions:
    """Counts through one loader of the evaluation loop, so that no sample counts twice.

    A distributed sampler, also one that a batch sampler draws from, deals position p to rank p mod world size, and
    repeats some past the end to even out the ranks. Of other loaders it is not known whether every rank gives all
    samples or a share that was cut by hand: `known` is False, and all samples are taken to count.

    Args:
        trainer: in its evaluation loop.
        i: which of its loaders.

    Raises:
        ValueError: for several loaders that are drawn from at once, whose shorter ones may repeat, and for a
            distributed sampler that deals to another number of ranks.
    """

    def __init__(self, trainer: Trainer, i: int) -> None:
        loaders, order = evaluation_loaders(trainer), evaluation_order(trainer)
        if len(loaders) > 1 and order != "sequential":
            raise ValueError(
                f"Evaluation draws from {len(loaders)} data loaders at once (CombinedLoader in mode "
                f"{order!r}): give the trainer a list of them, which it goes through one after the other."
            )
        # flags, not the loader: a module that holds this is copied and pickled
        loader = loaders[i]
        sampler: Any = getattr(loader, "sampler", None)
        within = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
        dealt: Any = next((s for s in (sampler, within) if isinstance(s, DistributedSampler)), None)
        self.rank, self.world_size = trainer.global_rank, trainer.world_size
        if dealt is not None and (dealt.num_replicas, dealt.rank) != (self.world_size, self.rank):
            raise ValueError(
                f"The DistributedSampler deals samples out to {dealt.num_replicas} ranks and is that of rank "
                f"{dealt.rank}, but this is rank {self.rank} of {self.world_size}: leave the sampler to Lightning, or "
                "give it num_replicas and rank as they are."
            )
        self.known = dealt is not None or self.world_size == 1
        """Whether it is known which samples count."""
        self.ordered = in_order(loader)
        """Whether positions follow the dataset, provided that every rank gives all samples where `known` is False."""
        stream = sampler is None or isinstance(getattr(loader, "dataset", None), IterableDataset)
        self.meaningful = self.ordered or stream
        """Whether positions say something of the samples: where they stand in the dataset or in a stream."""
        self._n = None if dealt is None else len(dealt.dataset)
        self._seen = 0

    def next(self, b: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the positions [b] of the next b samples, and which of them count [b].

        Where `known` is False the positions are those on this rank.
        """
        first, self._seen = self._seen, self._seen + b
        position = torch.arange(first, first + b, device=device)
        if self.known:
            position = position * self.world_size + self.rank
        return position, torch.ones_like(position, dtype=torch.bool) if self._n is None else position < self._n


def are_shares(checksum: Tensor) -> bool:
    """Return whether the ranks hold shares of the samples, not all of them each; all call it together.

    Args:
        checksum: of this rank's samples [n].
    """
    parts = [sorted(part.tolist()) for part in gather_objects(checksum)]
    return any(part != parts[0] for part in parts)


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
            "even out the shares or twins in the dataset: let a DistributedSampler deal them out in order, or give "
            "their positions by index_key."
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
    batches = inner_batch_sampler(getattr(loader, "batch_sampler", None))  # Lightning's `predict` wraps it
    if batches is not None:
        sampler = batches.sampler if type(batches) is BatchSampler else None
    if isinstance(sampler, DistributedSampler):
        sampler_within = inner_sampler(sampler.dataset)  # in Lightning's wrapper of a user's own sampler
        return not sampler.shuffle and (sampler_within is None or isinstance(sampler_within, SequentialSampler))
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
