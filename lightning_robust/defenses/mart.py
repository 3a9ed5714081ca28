"""MART: adversarial training in which misclassified samples count more in the robustness term."""

from typing import Any

import torch.nn.functional as F
from torch import nn

from lightning_robust.defenses.base import Defense
from lightning_robust.losses import at_least_fp32, boosted_cross_entropy
from lightning_robust.types import Batch, Losses, Views
from lightning_robust.utils.labels import hard_labels


class MART(Defense):
    """Trains on `BCE(f(x'), y) + beta KL(f(x) || f(x')) (1 - p_y(x))`, with the boosted cross-entropy BCE.

    p_y is the probability of the label, of a soft one that of its most probable class.
    With a reweighting w, the BCE of each sample is multiplied by its weight, as in MAIL-MART.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        beta: weight of the KL term, >= 0.
        kwargs: settings of `Defense`. The authors' attack is `PGD(start="normal")` on cross-entropy.

    Raises:
        ValueError: for a negative beta.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> from lightning_robust.types import Batch
        >>> model = MART(SmallConvNet(in_channels=1, num_classes=10), attack=PGD(steps=2))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Wang et al. 2020 (ICLR, "Improving adversarial robustness requires revisiting misclassified examples"),
    equation 11.
    Reference: YisenWang/MART@2d83e17, with its constants inside the logarithms.
    Deviates: the random start is clamped into the box before the first gradient: on the recorded step of tests/golden
    no pixel differs.
    """

    def __init__(self, net: nn.Module, beta: float = 5.0, **kwargs: Any) -> None:
        super().__init__(net, **kwargs)
        if beta < 0:
            raise ValueError(f"MART needs beta >= 0, got {beta}.")
        self.beta = beta

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return `BCE(f(x'), y) + beta KL(f(x) || f(x')) (1 - p_y(x))` of each sample."""
        logits = self.logits(batch.x)
        logits_adv = self.logits(views.adv)
        p, p_adv = (F.softmax(at_least_fp32(z), dim=1) for z in (logits, logits_adv))
        log_p = p.masked_fill(p == 0, 1).log()  # whose gradient at 0, as that of F.kl_div, would be infinite
        kl = (p * (log_p - (p_adv + 1e-12).log())).sum(1)
        robust = kl * (1.0000001 - p.gather(1, hard_labels(batch.y)[:, None])[:, 0])
        boosted = self.weigh(boosted_cross_entropy(logits_adv, batch.y), logits_adv, batch.y)
        return Losses(boosted + self.beta * robust, {"boosted": boosted, "robust": robust}, logits_adv)
