"""Random numbers that depend only on seed, sample and draw, never on batch size, order, process count or device.

torch's generators are sequential: what a sample receives depends on who drew before it. Here every number is a hash of
its coordinates (a counter-based generator), so a batch can be cut, reordered or spread over ranks without changing what
each sample receives, and nothing has to be stored to resume.
"""

import hashlib
import math
import os

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_robust.types import Batch

# the constants of SplitMix64, as signed numbers because torch has int64, whose arithmetic wraps around
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)

_SHARED = 80
"""Keeps what a batch has in common apart from its samples' streams; the value is arbitrary."""


class SampleRNG:
    """Random number generator with a stream of its own for each sample of a batch.

    Args:
        seed: seed that selects the family of streams.
        key: integers [b] that select each sample's stream, such as the samples' positions in the dataset.
        shared: seed of what all samples have in common (`shared_uniform`); by default the seed. Ranks that give the
            same one decide alike.

    Example:
        >>> x = torch.zeros(3, 2)
        >>> noise = SampleRNG(seed=0, key=torch.tensor([5, 6, 7])).uniform(x)
        >>> alone = SampleRNG(seed=0, key=torch.tensor([6])).uniform(x[:1])
        >>> torch.equal(noise[1:2], alone)  # whatever the batch, a sample receives the same numbers
        True

    Reference: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014), SplitMix64.
    """

    def __init__(self, seed: int, key: Int[Tensor, "b"], shared: int | None = None) -> None:
        self._stream = _scramble(_scramble(key.long() + _GOLDEN) + derive_seed(seed))
        self._count = 0
        self._shared = seed if shared is None else shared

    @classmethod
    def from_global_seed(cls, x: Float[Tensor, "b ..."]) -> "SampleRNG":
        """Return a generator seeded by torch's global generator, for callers who give no seed of their own.

        Args:
            x: the batch, whose size and device the streams take.

        Example:
            >>> x = torch.zeros(3, 2)
            >>> _ = torch.manual_seed(0)
            >>> noise = SampleRNG.from_global_seed(x).uniform(x)
            >>> _ = torch.manual_seed(0)
            >>> torch.equal(noise, SampleRNG.from_global_seed(x).uniform(x))
            True
        """
        return cls(int(torch.randint(2**31, ())), torch.arange(len(x), device=x.device))

    def __getitem__(self, which: Tensor) -> "SampleRNG":
        """Return a copy for some of the samples, at the same position of their streams.

        Drawing from the copy does not advance the original: in a loop, draw for all samples and select.

        Args:
            which: a mask [b], or indices.
        """
        part = object.__new__(SampleRNG)
        part._stream = self._stream[which]
        part._count = self._count
        part._shared = self._shared
        return part

    def fork(self, number: int | Int[Tensor, "b"]) -> "SampleRNG":
        """Return unrelated streams of the same samples, for another purpose in the same step.

        Args:
            number: what distinguishes the fork from others; one number, or one for each sample [b].

        Example:
            >>> rng, x = SampleRNG(0, torch.arange(2)), torch.zeros(2, 3)
            >>> torch.equal(rng.fork(1).uniform(x), rng.fork(1).uniform(x))
            True
            >>> torch.equal(rng.fork(1).uniform(x), rng.fork(2).uniform(x))
            False
        """
        seed: int | Tensor
        if isinstance(number, int):
            seed = derive_seed(number)
        else:
            seed = torch.tensor([derive_seed(k) for k in number.tolist()], device=number.device)
        other = object.__new__(SampleRNG)
        other._stream = _scramble(self._stream ^ seed)
        other._count = 0
        other._shared = derive_seed(self._shared, number) if isinstance(number, int) else self._shared
        return other

    def shared_uniform(self) -> float:
        """Return a uniform number in [0, 1) that all samples of the batch have in common; a fork has another.

        It is a plain number, by which the host can decide without waiting for a device.

        Example:
            >>> rng = SampleRNG(0, torch.arange(4))
            >>> rng.shared_uniform() == rng[torch.tensor([2])].shared_uniform() != rng.fork(1).shared_uniform()
            True
        """
        return (derive_seed(self._shared, _SHARED) >> 10) / 2**53  # as many digits as a double holds

    def uniform(self, like: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Draw the next uniform numbers in [0, 1).

        Args:
            like: tensor [b ...] whose shape, type and device the numbers take.
        """
        self._count += 1
        element = torch.arange(math.prod(like.shape[1:]), device=like.device)
        bits = _scramble(_scramble(self._stream + self._count)[:, None] + element * _GOLDEN)
        # no more digits than the type holds, so that no number is rounded up to 1
        digits = min(24, 1 - round(math.log2(torch.finfo(like.dtype).eps)))
        out: Tensor = _shift_right(bits, 64 - digits).to(like.dtype).div_(2**digits).view(like.shape)
        return out

    def normal(self, like: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Draw the next standard normal numbers, by the inverse distribution function, so within 5.5 deviations.

        Args:
            like: tensor [b ...] whose shape, type and device the numbers take.
        """
        wide = like if like.dtype == torch.float64 else like.float()
        out: Tensor = torch.special.ndtri(self.uniform(wide).clamp_(min=2.0**-25)).to(like.dtype)
        return out


def training_rng(seed: int, epoch: int, batch_idx: int, rank: int, batch: Batch) -> SampleRNG:
    """Return the generator of one training batch.

    If the batch has dataset positions, a sample's numbers do not depend on which rank holds it. Otherwise they differ
    between ranks by construction. What all samples of the batch have in common is the same on all ranks.

    Args:
        seed: seed of the run.
        epoch: epoch, counting from 0.
        batch_idx: number of the batch in the epoch, counting from 0.
        rank: this process's rank.
        batch: the batch.

    Example:
        >>> batch = Batch(torch.zeros(2, 1, 4, 4), torch.zeros(2), index=torch.tensor([8, 3]))
        >>> on_rank_0, on_rank_1 = (training_rng(0, 0, 0, rank, batch).uniform(batch.x) for rank in (0, 1))
        >>> torch.equal(on_rank_0, on_rank_1)
        True
    """
    step = derive_seed(seed, epoch, batch_idx)
    if batch.index is not None:
        return SampleRNG(step, batch.index)
    row = torch.arange(len(batch.x), device=batch.x.device)
    return SampleRNG(derive_seed(seed, epoch, batch_idx, rank), row, shared=step)


def global_seed() -> int:
    """Return the seed of `lightning.seed_everything`, or torch's initial seed if it was not called."""
    return int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed()))


def derive_seed(*parts: int) -> int:
    """Return one 63-bit seed made from several numbers; changing any of them gives an unrelated seed.

    Example:
        >>> derive_seed(0, 1) != derive_seed(1, 0)
        True
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def _scramble(z: Tensor) -> Tensor:
    z = (z ^ _shift_right(z, 30)) * _MIX1
    z = (z ^ _shift_right(z, 27)) * _MIX2
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift as an unsigned number would be, where int64 would copy its sign bit."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
