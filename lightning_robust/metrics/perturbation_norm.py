"""The distance of adversarial examples from their originals."""

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_robust.metrics.settings import keep_apart
from lightning_robust.threat import Norm, Threat
from lightning_robust.utils.private_apis import plot_metric


class PerturbationNorm(Metric):
    """Mean and maximum norm of the perturbations.

    `compute` returns a dict with "mean" and "max", both NaN where no sample was seen.

    Args:
        norm: "linf", "l2" or "l1".

    Example:
        >>> metric = PerturbationNorm("l2")
        >>> metric.update(torch.tensor([[[[0.3, 0.4]]]]), torch.zeros(1, 1, 1, 2))
        >>> {name: round(value.item(), 4) for name, value in metric.compute().items()}
        {'mean': 0.5, 'max': 0.5}
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    plot = plot_metric
    plot_lower_bound = 0.0
    size: Tensor
    largest: Tensor
    total: Tensor

    def __init__(self, norm: Norm = "linf") -> None:
        super().__init__()
        self.threat = Threat(norm)
        keep_apart(self, norm=norm)
        self.add_state("size", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("largest", torch.zeros((), dtype=torch.float64), dist_reduce_fx="max")
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, x_adv: Tensor, x: Tensor) -> None:
        """Measure the perturbations of a batch.

        Args:
            x_adv: perturbed images [b c h w].
            x: their originals [b c h w].
        """
        if not len(x):
            return
        distance = self.threat.distance(x_adv.double(), x.double())
        self.size += distance.sum()
        self.largest = torch.maximum(self.largest, distance.max())
        self.total += len(x)

    def compute(self) -> dict[str, Tensor]:
        """Return the mean and the maximum norm."""
        largest = torch.where(self.total > 0, self.largest, torch.nan)
        return {"mean": self.size / self.total, "max": largest}
