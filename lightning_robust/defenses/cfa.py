"""CFA: TRADES with a radius and a weight for each class, which follow how robust the net is on it."""

from typing import Any

from torch import nn

from lightning_robust.defenses.class_calibration import ClassCalibration
from lightning_robust.defenses.trades import TRADES
from lightning_robust.types import Batch, Losses, Views


class CFA(ClassCalibration, TRADES):
    """Trains on `(CE(f(x), y) + beta_y KL(f(x) || f(x'))) / (1 + beta_y)`, with x' within eps_y.

    From epoch `begin` on, `eps_y = (lambda_1 + t_y) eps` and `beta_y = (lambda_2 + t_y) beta`, where t_y is the share
    of the class's training samples that were classified correctly under attack in the epoch before; until then eps and
    beta are the same for all classes. Classes that are hard thus get smaller radii, and a larger weight on their clean
    images. The shares are exchanged between ranks and stand in checkpoints; see `ClassMemory`.

    The paper also averages the weights of those epochs after which the worst class on held-out images is robust enough:
    the callback `FairAveragedWeights`.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        beta: weight of the KL term, >= 0.
        lambda_1: what t_y is raised by for the radius, >= 0.
        lambda_2: what t_y is raised by for the weight, >= 0.
        begin: first epoch, counting from 0, in which classes differ, >= 1.
        kwargs: settings of `TRADES`. The authors' attack is `PGD(start="normal")`, with one step size for all classes.

    Raises:
        ValueError: for settings out of range, or as `TRADES` does.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> model = CFA(SmallConvNet(), attack=PGD(steps=2, start="normal"))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Wei et al. 2023 (arXiv 2303.14460), equations 6 to 8.
    Reference: PKU-ML/CFA@071f333, with `clean_forwards=2`.
    Deviates: t_y is over the number of the class's samples, where the reference divides by a tenth of all samples: the
    same on CIFAR-10. There is no record of its steps: the tests hold closed forms.
    """

    def __init__(
        self,
        net: nn.Module,
        beta: float = 6.0,
        lambda_1: float = 0.3,
        lambda_2: float = 0.5,
        begin: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(net, lambda_1=lambda_1, begin=begin, beta=beta, **kwargs)
        if lambda_2 < 0:
            raise ValueError(f"CFA needs lambda_2 >= 0, got {lambda_2}.")
        self.lambda_2 = lambda_2

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return TRADES' terms of each sample, weighted by its class."""
        losses = super().loss(batch, views)
        beta = self.calibrated(self.beta, self.lambda_2, views.more["robustness"])
        return losses._replace(total=(losses.parts["natural"] + beta * losses.parts["robust"]) / (1 + beta))
