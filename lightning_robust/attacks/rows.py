"""State of an attack that has one row for each sample still under attack."""

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from torch import Tensor

from lightning_robust.runtime.rng import SampleRNG

R = TypeVar("R", bound="Rows")


@dataclass
class Rows:
    """Base of an attack's state: tensors and random streams with one row for each sample still under attack.

    Indexing by a mask or by positions gives the state of those samples alone.
    """

    def __getitem__(self: R, which: Tensor) -> R:
        """Return the state of some of the samples (a mask or positions)."""
        return replace(self, **{field.name: select(getattr(self, field.name), which) for field in fields(self)})


def select(value: Any, which: Tensor) -> Any:
    """Return the rows `which` of a tensor or of random streams; anything else belongs to all samples and stays."""
    return value[which] if isinstance(value, (Tensor, SampleRNG)) else value
