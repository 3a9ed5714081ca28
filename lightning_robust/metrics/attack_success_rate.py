"""How often an attack turns a right answer into a wrong one."""

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_robust.metrics.functional import is_correct


class AttackSuccessRate(Metric):
    """Share of the samples classified correctly clean that the attack makes misclassified; NaN if there are none."""

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot = Metric._plot
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    flipped: Tensor
    attacked: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("flipped", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("attacked", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, logits_adv: Tensor, y: Tensor) -> None:
        """Count a batch: clean and adversarial logits [b k], labels [b]."""
        before = is_correct(logits, y)
        self.attacked += before.sum()
        self.flipped += (before & ~is_correct(logits_adv, y)).sum()

    def compute(self) -> Tensor:
        """The rate in [0, 1]."""
        return self.flipped / self.attacked
