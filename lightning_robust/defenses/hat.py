"""Helper-based adversarial training (HAT): a clean net labels examples beyond the ball, against needless margins."""

from typing import Any

from torch import nn

from lightning_robust.defenses.distillation import Distillation
from lightning_robust.defenses.trades import TRADES
from lightning_robust.losses import cross_entropy
from lightning_robust.types import Batch, Losses, Views


class HAT(Distillation, TRADES):
    """Trains on `CE(f(x), y) + beta KL(f(x) || f(x')) + gamma CE(f(x + h (x' - x)), argmax t(x'))`.

    t is the helper, a net trained on clean images. x' is TRADES'; the helper's example lies h times as far and may
    leave the box. With a reweighting w, the KL term of each sample is multiplied by its weight.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        teacher: the helper, a frozen net with logits of the same classes, see `Distillation`.
        beta: weight of the KL term, >= 0.
        gamma: weight of the helper's term, >= 0.
        h: how far the helper's example lies from the image, in units of the perturbation.
        kwargs: settings of `TRADES`. The authors' attack is `PGD(start="normal")`, with averaged weights
            `PGD(start="uniform")` with `attack_bn="batch"`.

    Raises:
        ValueError: for a negative gamma, or as `TRADES` and `Distillation` do.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> model = HAT(SmallConvNet(), teacher=SmallConvNet(width=8), attack=PGD(steps=2, start="normal"))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Rade & Moosavi-Dezfooli 2021 (ICML workshop on adversarial machine learning; ICLR 2022, "Reducing excessive
    margin to achieve a better accuracy vs. robustness trade-off"), equation 4.
    Reference: imrahulr/hat@3177a4f.
    Deviates: the random start is clamped into the box before the first gradient: on the recorded step of tests/golden
    2.1 % of the pixels and 0.03 % of the loss differ (given the record's start, none).
    """

    def __init__(
        self, net: nn.Module, teacher: nn.Module, beta: float = 2.5, gamma: float = 0.5, h: float = 2.0, **kwargs: Any
    ) -> None:
        super().__init__(net, teacher, beta=beta, **kwargs)
        if gamma < 0:
            raise ValueError(f"HAT needs gamma >= 0, got {gamma}.")
        self.gamma = gamma
        self.h = h

    def generate(self, batch: Batch) -> Views:
        """Craft TRADES' examples, and let the helper look at them."""
        x_adv = super().generate(batch).adv
        return self.with_teacher(batch, x_adv, self.taught(x_adv))

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return TRADES' loss and the cross-entropy of the helper's example with the helper's label."""
        trades = super().loss(batch, views)
        logits = self.logits(batch.x + self.h * (views.adv - batch.x))
        helped = cross_entropy(logits, views.more["teacher"].argmax(1))
        parts = {**trades.parts, "helped": helped}
        return Losses(trades.total + self.gamma * helped, parts, trades.logits_adv)
