"""Random numbers that depend only on (seed, sample, draw): never on batch size, order, process count or device.

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

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # int64 arithmetic wraps, so constants are written as signed numbers
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)


class SampleRNG:
    """A stream of random tensors for each sample of a batch.

    Args:
        seed: selects the family of streams.
        key: [b] integers, one stream each: the samples' dataset positions, say.

    Reference: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014), SplitMix64.
    """

    def __init__(self, seed: int, key: Int[Tensor, "b"]) -> None:
        self._stream = _scramble(_scramble(key.long() + _GOLDEN) + derive_seed(seed))
        self._count = 0

    @classmethod
    def from_global_seed(cls, x: Float[Tensor, "b ..."]) -> "SampleRNG":
        """Streams seeded once by torch's global generator, for callers who give no seed of their own."""
        return cls(int(torch.randint(2**31, ())), torch.arange(len(x), device=x.device))

    def __getitem__(self, which: Tensor) -> "SampleRNG":
        """A copy of the streams, at the same position, for some of the samples (a mask or indices).

        Drawing from the copy does not advance the original: in a loop, draw for all and select.
        """
        part = object.__new__(SampleRNG)
        part._stream, part._count = self._stream[which], self._count
        return part

    def fork(self, number: int | Int[Tensor, "b"]) -> "SampleRNG":
        """Unrelated streams of the same samples, for another purpose in the same step; one number, or one for each."""
        seed: int | Tensor
        if isinstance(number, int):
            seed = derive_seed(number)
        else:
            seed = torch.tensor([derive_seed(k) for k in number.tolist()], device=number.device)
        other = object.__new__(SampleRNG)
        other._stream, other._count = _scramble(self._stream ^ seed), 0
        return other

    def uniform(self, like: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """The next uniform numbers in [0, 1), in the shape, type and device of `like`."""
        self._count += 1
        element = torch.arange(math.prod(like.shape[1:]), device=like.device)
        bits = _scramble(_scramble(self._stream + self._count)[:, None] + element * _GOLDEN)
        digits = min(24, 1 - round(math.log2(torch.finfo(like.dtype).eps)))  # what the type holds: 1 is never reached
        out: Tensor = _shift(bits, 64 - digits).to(like.dtype).div_(2**digits).view(like.shape)
        return out

    def normal(self, like: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """The next standard normal numbers, by the inverse distribution function (so within 5.5 deviations)."""
        wide = like if like.dtype == torch.float64 else like.float()
        out: Tensor = torch.special.ndtri(self.uniform(wide).clamp_(min=2.0**-25)).to(like.dtype)
        return out


def training_rng(seed: int, epoch: int, batch_idx: int, rank: int, batch: Batch) -> SampleRNG:
    """The streams of one training batch.

    With dataset positions in the batch, a sample's numbers do not depend on which rank holds it; without, they differ
    between ranks by construction.
    """
    if batch.index is not None:
        return SampleRNG(derive_seed(seed, epoch, batch_idx), batch.index)
    return SampleRNG(derive_seed(seed, epoch, batch_idx, rank), torch.arange(len(batch.x), device=batch.x.device))


def global_seed() -> int:
    """The seed of `lightning.seed_everything`, or else torch's initial one."""
    return int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed()))


def derive_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers; any change of any part gives an unrelated seed."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def _scramble(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX1
    z = (z ^ _shift(z, 27)) * _MIX2
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)
