"""Accuracy under attack, for each attack and for the worst of them on each sample."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_robust.metrics.functional import is_correct


class RobustAccuracy(Metric):
    """Clean accuracy, accuracy under each attack, and worst-case accuracy.

    A sample counts for the worst case only if it is classified correctly clean and under every attack. Counts are whole
    numbers, so they are exact over any number of batches and ranks.

    `compute` returns a dict of accuracies: "clean", each attack's name, "worst".

    Args:
        attacks: names of the attacks.

    Raises:
        ValueError: for a repeated name, or one that is "clean", "worst" or "n".
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot = Metric._plot
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    correct: Tensor
    total: Tensor

    def __init__(self, attacks: Sequence[str]) -> None:
        super().__init__()
        self.names = ["clean", *attacks, "worst"]
        if len(set(self.names)) < len(self.names) or "n" in attacks:
            raise ValueError(f"Attacks need distinct names other than clean, worst and n, got {list(attacks)}.")
        self.add_state("correct", torch.zeros(len(self.names), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, logits_adv: Mapping[str, Tensor], y: Tensor) -> None:
        """Count a batch: clean logits [b k], adversarial logits [b k] of every attack, labels [b].

        Raises:
            ValueError: if the attacks are not those announced.
        """
        attacks = self.names[1:-1]
        if set(logits_adv) != set(attacks):
            raise ValueError(f"Expected logits of the attacks {attacks}, got {sorted(logits_adv)}.")
        right = torch.stack([is_correct(logits, y), *(is_correct(logits_adv[name], y) for name in attacks)])
        self.correct += torch.cat([right.sum(1), right.all(0).sum()[None]])
        self.total += len(y)

    def compute(self) -> dict[str, Tensor]:
        """Accuracies in [0, 1]."""
        return dict(zip(self.names, self.correct / self.total, strict=True))

    def counts(self) -> dict[str, int]:
        """The number classified correctly under each name, and "n", over all ranks."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return dict(zip([*self.names, "n"], [*self.correct.tolist(), int(self.total)], strict=True))
