"""The rate at which an attack turns right answers into wrong ones."""

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_robust.metrics.functional import is_correct
from lightning_robust.metrics.settings import counted, keep_apart
from lightning_robust.utils.private_apis import plot_metric


class AttackSuccessRate(Metric):
    """Share of the samples classified correctly without the attack that are misclassified under it.

    `compute` returns a value in [0, 1], or NaN if no sample was classified correctly without the attack.

    Args:
        ignore_index: label of the samples that do not count; None counts all.

    Raises:
        ValueError: when updated, for labels of another shape than [b].

    Example:
        >>> metric = AttackSuccessRate()
        >>> clean = torch.tensor([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0]])
        >>> attacked = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]])
        >>> metric.update(clean, attacked, torch.tensor([0, 0, 0]))
        >>> metric.compute()
        tensor(0.5000)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot = plot_metric
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    flipped: Tensor
    attacked: Tensor

    def __init__(self, ignore_index: int | None = None) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        keep_apart(self, ignore_index=ignore_index)
        self.add_state("flipped", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("attacked", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, logits_adv: Tensor, y: Tensor) -> None:
        """Count the samples of a batch.

        Args:
            logits: logits [b k] of the clean images.
            logits_adv: logits [b k] of the adversarial examples.
            y: labels [b] or [b k].
        """
        correct = is_correct(logits, y) & counted(y, logits, self.ignore_index)
        self.attacked += correct.sum()
        self.flipped += (correct & ~is_correct(logits_adv, y)).sum()

    def compute(self) -> Tensor:
        """Return the rate in [0, 1]."""
        return self.flipped / self.attacked
