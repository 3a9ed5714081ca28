"""The mean distance to the nearest class boundary of the linearised net."""

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_robust.metrics.functional import effective_margin
from lightning_robust.types import Net


class EffectiveMargin(Metric):
    """Mean over samples of `functional.effective_margin`; misclassified samples count with their negative margin.

    Args:
        candidates: classes compared with the label's, each one backward pass; by default all others.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot = Metric._plot
    margin: Tensor
    total: Tensor

    def __init__(self, candidates: int | None = None) -> None:
        super().__init__()
        self.candidates = candidates
        self.add_state("margin", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, net: Net, x: Tensor, y: Tensor) -> None:
        """Measure a batch: the net, images [b c h w] in [0, 1], labels [b]."""
        self.margin += effective_margin(net, x, y, self.candidates).double().sum()
        self.total += len(y)

    def compute(self) -> Tensor:
        """The mean margin, in l2 distance between images."""
        return self.margin / self.total
