"""Accuracy under each attack, and under the worst attack on each sample."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_robust.metrics.functional import is_correct
from lightning_robust.metrics.settings import counted, keep_apart
from lightning_robust.utils.private_apis import plot_metric


class RobustAccuracy(Metric):
    """Clean accuracy, accuracy under each attack, and worst-case accuracy.

    A sample counts for the worst case only if it is classified correctly without an attack and under every attack.
    Counts are integers, so they are exact over any number of batches and ranks.

    `compute` returns a dict of accuracies: "clean", each attack's name, "worst".

    Args:
        attacks: names of the attacks.
        ignore_index: label of the samples that do not count; None counts all.

    Raises:
        ValueError: for a repeated name, or one that is "clean", "worst" or "n"; when updated, for labels of another
            shape than [b].

    Example:
        >>> metric = RobustAccuracy(["pgd"])
        >>> clean = torch.tensor([[2.0, 1.0], [2.0, 1.0]])
        >>> attacked = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
        >>> metric.update(clean, {"pgd": attacked}, torch.tensor([0, 0]))
        >>> metric.compute()
        {'clean': tensor(1.), 'pgd': tensor(0.5000), 'worst': tensor(0.5000)}
        >>> metric.counts()
        {'clean': 2, 'pgd': 1, 'worst': 1, 'n': 2}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot = plot_metric
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    correct: Tensor
    total: Tensor

    def __init__(self, attacks: Sequence[str], ignore_index: int | None = None) -> None:
        super().__init__()
        self.names = ["clean", *attacks, "worst"]
        if len(set(self.names)) < len(self.names) or "n" in attacks:
            raise ValueError(f"Attacks need distinct names other than clean, worst and n, got {list(attacks)}.")
        self.ignore_index = ignore_index
        keep_apart(self, ignore_index=ignore_index)
        self.add_state("correct", torch.zeros(len(self.names), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, logits_adv: Mapping[str, Tensor], y: Tensor) -> None:
        """Count the samples of a batch.

        Args:
            logits: logits [b k] of the clean images.
            logits_adv: logits [b k] of the adversarial examples of every attack, by its name.
            y: labels [b] or [b k].

        Raises:
            ValueError: if the attacks are not those given to the constructor.
        """
        attacks = self.names[1:-1]
        if set(logits_adv) != set(attacks):
            raise ValueError(f"Expected logits of the attacks {attacks}, got {sorted(logits_adv)}.")
        counts = counted(y, logits, self.ignore_index)
        right = counts & torch.stack([is_correct(logits, y), *(is_correct(logits_adv[name], y) for name in attacks)])
        self.correct += torch.cat([right.sum(1), right.all(0).sum()[None]])
        self.total += counts.sum()

    def compute(self) -> dict[str, Tensor]:
        """Return the accuracies in [0, 1] by name."""
        return dict(zip(self.names, self.correct / self.total, strict=True))

    def counts(self) -> dict[str, int]:
        """Return the number of correct samples under each name, and of all samples as "n", over all ranks."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return dict(zip([*self.names, "n"], [*self.correct.tolist(), int(self.total)], strict=True))
