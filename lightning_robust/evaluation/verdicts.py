"""What one attack has found about each sample."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_robust.evaluation.scores import unknown_scores

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
        scores: of the net on an example [n 3], see `lightning_robust.evaluation.scores`: on the one that broke the
            sample, or while none did, of the clean image and the examples that the stages ended with, on the one of
            the greatest NLL.

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
    scores: Tensor = field(default_factory=lambda: unknown_scores(0))

    def __post_init__(self) -> None:
        """Leave open what is known of random nets alone, and scores that are not given."""
        if len(self.scores) != len(self.done):
            self.scores = unknown_scores(len(self.done)).to(self.done.device)
        if len(self.held) != len(self.done):
            self.held = torch.full_like(self.done, torch.inf, dtype=torch.float64)
            self.accuracy = torch.full_like(self.held, torch.nan)

    @classmethod
    def initial(cls, clean: Tensor, scores: Tensor | None = None) -> "Verdicts":
        """Return the verdicts before the attack: every sample stands, unperturbed.

        Args:
            clean: the predictions [n] on the clean images.
            scores: on the clean images [n 3], if they are known.
        """
        done = torch.zeros(len(clean), dtype=torch.int32)
        known = unknown_scores(len(clean)) if scores is None else scores.clone()
        return cls(done, torch.full_like(done, STANDING), clean.clone(), done.double(), scores=known)

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
