"""Adversarial logit pairing (ALP): the logits of an image and of its adversarial example are drawn together."""

from typing import Any

from torch import nn

from lightning_robust.defenses.margin_defense import MarginDefense
from lightning_robust.losses import logit_distance
from lightning_robust.types import Batch, Losses, Views


class ALP(MarginDefense):
    """Trains on `1/2 CE(f(x), y) + 1/2 CE(f(x'), y) + beta mean_k (f_k(x) - f_k(x'))^2`.

    With a reweighting w, the cross-entropy of each adversarial example is multiplied by its weight.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        beta: weight of the pairing term, >= 0.
        kwargs: settings of `MarginDefense`. The attack of the reference is `PGD(start="normal")`.

    Raises:
        ValueError: for a negative beta.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> from lightning_robust.types import Batch
        >>> model = ALP(SmallConvNet(in_channels=1, num_classes=10), attack=PGD(steps=2))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Kannan et al. 2018 (arXiv 1803.06373), equation 3.
    Reference: ShawnXYang/AT_HE@dad6a41; given its start, the step is the reference's to rounding.
    Deviates: the random start is clamped into the box before the first gradient; on the recorded step of tests/golden
    no pixel of the examples differs.
    """

    def __init__(self, net: nn.Module, beta: float = 0.5, **kwargs: Any) -> None:
        super().__init__(net, **kwargs)
        if beta < 0:
            raise ValueError(f"ALP needs beta >= 0, got {beta}.")
        self.beta = beta

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return `1/2 CE(f(x), y) + 1/2 CE(f(x'), y) + beta mean_k (f_k(x) - f_k(x'))^2` of each sample."""
        logits, logits_adv = self.logits(batch.x), self.logits(views.adv)
        natural = self.cross_entropy(logits, batch.y)
        robust = self.weigh(self.cross_entropy(logits_adv, batch.y), logits_adv, batch.y)
        pairing = logit_distance(logits, logits_adv)
        parts = {"natural": natural, "robust": robust, "pairing": pairing}
        return Losses((natural + robust) / 2 + self.beta * pairing, parts, logits_adv)
