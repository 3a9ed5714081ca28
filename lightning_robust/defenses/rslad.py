"""RSLAD: adversarial distillation by the soft labels of a robust teacher."""

from typing import Any

from torch import Tensor, nn

from lightning_robust.defenses.distillation import Distillation
from lightning_robust.losses import at_least_fp32, kl_divergence
from lightning_robust.types import Batch, Losses, Views


class RSLAD(Distillation):
    """Trains on `scale (natural KL(t(x) || f(x)) + (1 - natural) KL(t(x) || f(x')))`, without any label.

    t is the teacher, and x' maximises KL(t(x) || f(x')). The divergence is the mean over the classes,
    `1/k sum_k q_k (log(q_k + 1e-5) - log p_k)`. With a reweighting w, the second divergence of each sample is
    multiplied by its weight.

    Args:
        net: the net that learns: images [b c h w] in [0, 1] to logits [b k].
        teacher: the net that it learns from, see `Distillation`.
        natural: weight of the clean images' divergence, in [0, 1].
        scale: factor of the loss, > 0; the authors' is 10 on CIFAR-100, which undoes the mean over ten times as many
            classes.
        kwargs: settings of `Defense`. The authors' attack is `PGD(start="normal")`.

    Raises:
        ValueError: for settings out of range, or label_smoothing, since no label is used.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> model = RSLAD(SmallConvNet(), teacher=SmallConvNet(width=8), attack=PGD(steps=2, start="normal"))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Zi et al. 2021 (arXiv 2108.07969), equation 5.
    Reference: zibojia/RSLAD@c40e04f.
    Deviates: the random start is clamped into the box before the first gradient: on the recorded step of tests/golden
    no pixel of the examples differs.
    """

    def __init__(
        self, net: nn.Module, teacher: nn.Module, natural: float = 1 / 6, scale: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(net, teacher, **kwargs)
        if not 0 <= natural <= 1 or not scale > 0:
            raise ValueError(f"RSLAD needs natural in [0, 1] and scale > 0, got {natural} and {scale}.")
        if self.label_smoothing:
            raise ValueError("RSLAD learns from the teacher's outputs and no labels: leave label_smoothing out.")
        self.natural = natural
        self.scale = scale

    def generate(self, batch: Batch) -> Views:
        """Craft examples that maximise KL(t(x) || f(x'))."""
        teacher = self.taught(batch.x)
        return self.with_teacher(batch, self.craft(batch, teacher, objective=kl_divergence), teacher)

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return the weighted divergences from the teacher of each sample."""
        logits_adv = self.logits(views.adv)
        logits = self.logits(batch.x)
        teacher = views.more["teacher"]
        natural = _divergence(logits, teacher)
        robust = self.weigh(_divergence(logits_adv, teacher), logits_adv, batch.y)
        total = self.scale * (self.natural * natural + (1 - self.natural) * robust)
        return Losses(total, {"natural": natural, "robust": robust}, logits_adv)


def _divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over the classes of `q (log(q + 1e-5) - log p)` for each sample."""
    q = at_least_fp32(teacher).softmax(1)
    kl = q * ((q + 1e-5).log() - at_least_fp32(logits).log_softmax(1).masked_fill(q == 0, 0))
    return kl.sum(1) / (~logits.isneginf()).sum(1)
