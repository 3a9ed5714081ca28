"""The mean distance to the nearest class boundary of the linearised net."""

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_robust.metrics.functional import effective_margin
from lightning_robust.metrics.settings import counted, keep_apart
from lightning_robust.types import Net
from lightning_robust.utils.private_apis import plot_metric


class EffectiveMargin(Metric):
    """Mean effective margin: the l2 distance to the nearest class boundary of the net linearised at each image.

    Misclassified samples count with their negative margin. See `functional.effective_margin`.

    Args:
        candidates: number of classes compared with the label, those with the highest logits; each takes one backward
            pass. All others by default.
        ignore_index: label of the samples that do not count; None counts all.

    Raises:
        ValueError: when updated, for labels of another shape than [b].

    Example:
        >>> net = torch.nn.Flatten()
        >>> metric = EffectiveMargin()
        >>> metric.update(net, torch.tensor([[[[0.8, 0.2]]]]), torch.tensor([0]))
        >>> metric.compute()
        tensor(0.4243, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot = plot_metric
    margin: Tensor
    total: Tensor

    def __init__(self, candidates: int | None = None, ignore_index: int | None = None) -> None:
        super().__init__()
        self.candidates = candidates
        self.ignore_index = ignore_index
        keep_apart(self, candidates=candidates, ignore_index=ignore_index)
        self.add_state("margin", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, net: Net, x: Tensor, y: Tensor) -> None:
        """Measure the margins of a batch.

        Args:
            net: images to logits.
            x: images [b c h w] in [0, 1].
            y: labels [b] or [b k].
        """
        counts = counted(y, x, self.ignore_index)
        if self.ignore_index is not None or not len(x):
            x, y = x[counts], y[counts]
            if not len(x):
                return
        self.margin += effective_margin(net, x, y, self.candidates).double().sum()
        self.total += len(y)

    def compute(self) -> Tensor:
        """Return the mean margin, an l2 distance between images."""
        return self.margin / self.total
