"""What one attack has found about each sample."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

STANDING = -1
"""In `Verdicts.broken`: no stage of the attack has broken the sample."""


@dataclass
class Verdicts:
    """What one attack has found about each of n samples so far, on the CPU.

    Args:
        done: how many of the attack's stages each sample [n] has been through.
        broken: the number of the stage that broke it [n], or `STANDING`.
        predicted: the class that the net predicts on the last example made from it [n].
        size: the distance of that example in the threat's norm [n]; inf where a search for the nearest found none.
        held: of a random net, the share of forward passes in which it was right on the example, by which the example
            was chosen [n]; inf where there is none yet.
        accuracy: of a random net, the share of as many further passes in which it was right on that example [n]; NaN
            where there is none. The choice knows nothing of these passes, so they are an unbiased estimate.

    Example:
        >>> import torch
        >>> verdicts = Verdicts.initial(clean=torch.tensor([3, 1]))
        >>> verdicts[torch.tensor([1])] = Verdicts(*torch.tensor([[1], [0], [7], [2]]))
        >>> verdicts.standing.tolist(), verdicts.predicted.tolist(), verdicts.size.tolist()
        ([True, False], [3, 7], [0.0, 2.0])
    """

    done: Tensor
    broken: Tensor
    predicted: Tensor
    size: Tensor
    held: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    accuracy: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))

    def __post_init__(self) -> None:
        """Leave out what is known of random nets alone."""
        if len(self.held) != len(self.done):
            self.held = torch.full_like(self.done, torch.inf, dtype=torch.float64)
            self.accuracy = torch.full_like(self.held, torch.nan)

    @classmethod
    def initial(cls, clean: Tensor) -> "Verdicts":
        """Return the verdicts before the attack: every sample stands, unperturbed, with its clean prediction [n]."""
        done = torch.zeros(len(clean), dtype=torch.int32)
        return cls(done, torch.full_like(done, STANDING), clean.clone(), done.double())

    @property
    def standing(self) -> Tensor:
        """Mark the samples [n] that no stage has broken."""
        return self.broken == STANDING

    def __getitem__(self, rows: Tensor) -> "Verdicts":
        """Select samples by a mask or by positions."""
        return self.map(lambda column: column[rows])

    def __setitem__(self, rows: Tensor, verdicts: "Verdicts") -> None:
        """Replace what is known of some samples; device and dtypes may differ."""
        for mine, new in zip(vars(self).values(), vars(verdicts).values(), strict=True):
            mine[rows] = new.to(mine)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Verdicts":
        """Apply a function to every column."""
        return Verdicts(*map(change, vars(self).values()))
