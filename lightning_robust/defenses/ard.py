"""ARD: adversarially robust distillation from a teacher at a temperature."""

from typing import Any

from torch import nn

from lightning_robust.defenses.distillation import Distillation
from lightning_robust.losses import cross_entropy, kl_divergence
from lightning_robust.types import Batch, Losses, Views


class ARD(Distillation):
    """Trains on `alpha T^2 / k KL(t(x) / T || f(x') / T) + (1 - alpha) CE(f(x), y)`.

    t is the teacher, k the number of classes and `/ T` a softmax with temperature T; x' maximises the cross-entropy.
    With a reweighting w, the divergence of each sample is multiplied by its weight. The clean images are forwarded also
    where alpha is 1, for the running statistics of batch norms.

    Args:
        net: the net that learns: images [b c h w] in [0, 1] to logits [b k].
        teacher: the net that it learns from, see `Distillation`.
        alpha: weight of the divergence, in [0, 1].
        temperature: T, > 0.
        kwargs: settings of `Defense`. The authors' attack runs with `attack_bn="train"`.

    Raises:
        ValueError: for settings out of range.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> model = ARD(SmallConvNet(), teacher=SmallConvNet(width=8), attack=PGD(steps=2))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Goldblum et al. 2020 (arXiv 1905.09747), equation 3.
    Reference: goldblum/AdversariallyRobustDistillation@779ade3, whose mean over the classes gives the factor 1 / k.
    Deviates: the random start is clamped into the box before the first gradient: on the recorded step of tests/golden
    12 % of the pixels and 0.03 % of the loss differ (given the record's start, none).
    """

    def __init__(
        self, net: nn.Module, teacher: nn.Module, alpha: float = 1.0, temperature: float = 30.0, **kwargs: Any
    ) -> None:
        super().__init__(net, teacher, **kwargs)
        if not 0 <= alpha <= 1 or not temperature > 0:
            raise ValueError(f"ARD needs alpha in [0, 1] and temperature > 0, got {alpha} and {temperature}.")
        self.alpha = alpha
        self.temperature = temperature

    def generate(self, batch: Batch) -> Views:
        """Craft examples that maximise the cross-entropy."""
        return self.with_teacher(batch, self.craft(batch))

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return the weighted divergence from the teacher and the clean cross-entropy of each sample."""
        logits_adv = self.logits(views.adv)
        logits = self.logits(batch.x)
        natural = cross_entropy(logits, batch.y)
        divergence = kl_divergence(logits_adv / self.temperature, views.more["teacher"] / self.temperature)
        robust = self.weigh(self.temperature**2 * divergence / (~logits.isneginf()).sum(1), logits_adv, batch.y)
        total = self.alpha * robust + (1 - self.alpha) * natural
        return Losses(total, {"natural": natural, "robust": robust}, logits_adv)
