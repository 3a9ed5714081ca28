"""How far examples are from their originals."""

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_robust.threat import Norm, Threat


class PerturbationNorm(Metric):
    """Mean and maximum size of the perturbation, as the dict "mean", "max".

    Args:
        norm: "linf", "l2" or "l1".
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    plot = Metric._plot
    plot_lower_bound = 0.0
    size: Tensor
    largest: Tensor
    total: Tensor

    def __init__(self, norm: Norm = "linf") -> None:
        super().__init__()
        self.threat = Threat(norm)
        self.add_state("size", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("largest", torch.zeros((), dtype=torch.float64), dist_reduce_fx="max")
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, x_adv: Tensor, x: Tensor) -> None:
        """Measure a batch of examples [b c h w] against their originals."""
        distance = self.threat.distance(x_adv.double(), x.double())
        self.size += distance.sum()
        self.largest = torch.maximum(self.largest, distance.max())
        self.total += len(x)

    def compute(self) -> dict[str, Tensor]:
        """Mean and maximum."""
        return {"mean": self.size / self.total, "max": self.largest}
