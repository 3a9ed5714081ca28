"""LBGAT: the boundary of a clean net, trained along, guides adversarial training."""

from typing import Any

from torch import nn

from lightning_robust.defenses.trades import TRADES
from lightning_robust.losses import kl_divergence, logit_distance
from lightning_robust.runtime.outputs import logits_of
from lightning_robust.types import Batch, Losses, Views


class LBGAT(TRADES):
    """Trains on `MSE(f(x'), t(x)) + CE(t(x), y) + beta KL(f(x) || f(x'))`, where the teacher t learns along.

    The teacher sees clean images alone, and its gradient comes from the first two terms, the mean over the classes of
    the squared difference of the logits and its own cross-entropy. x' maximises the KL term, also where beta is 0. With
    a reweighting w, the first and the last term of each sample are multiplied by its weight.

    The teacher is a submodule: one optimizer trains both nets, and checkpoints and averages hold both. Evaluations,
    exports and weight perturbations take the net alone.

    Args:
        net: the net that is to be robust: images [b c h w] in [0, 1] to logits [b k].
        teacher: the net that is trained on clean images alone, with logits of the same classes; usually a smaller one.
        beta: weight of the KL term, >= 0.
        kwargs: settings of `TRADES`. The authors' attack is `PGD(start="normal")`.

    Raises:
        ValueError: for the net itself as its teacher, a teacher of other classes, or as `TRADES` does.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> model = LBGAT(SmallConvNet(), teacher=SmallConvNet(width=8), attack=PGD(steps=2, start="normal"))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Cui et al. 2021 (arXiv 2011.11164), equation 7.
    Reference: dvlab-research/LBGAT@f7f33f0.
    Deviates: the random start is clamped into the box before the first gradient: on the recorded step of tests/golden
    2 % of the pixels and 0.01 % of the loss differ (given the record's start, none).
    """

    def __init__(self, net: nn.Module, teacher: nn.Module, beta: float = 0.0, **kwargs: Any) -> None:
        super().__init__(net, beta=beta, clean_forwards=1, **kwargs)
        if teacher is net:
            raise ValueError("The teacher is the net that is to learn from it: give a net of its own.")
        self.teacher = teacher

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return the three terms of each sample."""
        logits_adv = self.logits(views.adv)
        logits = self.logits(batch.x)
        taught = logits_of(self.teacher(batch.x))
        if taught.shape != logits.shape:
            raise ValueError(
                f"The teacher gives {taught.shape[1]} logits but the net {logits.shape[1]}: give a teacher of the same "
                "classes."
            )
        guided = logit_distance(taught, logits_adv)
        natural = self.cross_entropy(taught, batch.y)
        robust = kl_divergence(logits_adv, logits)
        total = natural + self.weigh(guided + self.beta * robust, logits_adv, batch.y)
        return Losses(total, {"guided": guided, "teacher": natural, "robust": robust}, logits_adv)
