"""IAD: adversarial distillation that trusts the teacher as far as it withstands the net's adversarial examples."""

from typing import Any

from torch import nn

from lightning_robust.defenses.distillation import Distillation
from lightning_robust.losses import at_least_fp32, cross_entropy, kl_divergence
from lightning_robust.types import Batch, Losses, Views
from lightning_robust.utils.labels import hard_labels


class IAD(Distillation):
    """Trains on `alpha (T^2 KL(t(x) / T || f(x') / T) + (1 - r) KL(f(x) || f(x'))) + (1 - alpha) CE(f(x), y)`.

    t is the teacher, `/ T` a softmax with temperature T, and `r = t(x')_y ** beta`, the teacher's probability of the
    label at the example to the power of beta: the less the teacher is to be relied on there, the more the net learns
    from its own clean output. Until epoch `begin`, r is 1. x' maximises the cross-entropy. With a reweighting w, both
    divergences of each sample are multiplied by its weight. This is the paper's IAD-I, which builds on `ARD`; IAD-II
    has two teachers.

    Args:
        net: the net that learns: images [b c h w] in [0, 1] to logits [b k].
        teacher: the net that it learns from, see `Distillation`.
        alpha: weight of the divergences, in [0, 1].
        temperature: T, > 0.
        beta: how fast the trust in the teacher falls with its probability of the label, >= 0; 0 is full trust.
        begin: first epoch, counting from 0, in which the net learns from itself too, >= 0.
        kwargs: settings of `Defense`. The authors' attack runs with `attack_bn="train"`.

    Raises:
        ValueError: for settings out of range.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> model = IAD(SmallConvNet(), teacher=SmallConvNet(width=8), begin=0, attack=PGD(steps=2))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Zhu et al. 2022 (arXiv 2106.04928), IAD-I.
    Reference: ZFancy/IAD@a8091a8, IAD-I.py.
    Deviates: the random start is clamped into the box before the first gradient; in the loss running statistics of
    batch norms see x and x' once each, where the reference forwards x' once more, and from `begin` on x too. Given the
    start, examples, loss and gradients are the reference's to rounding. There is no record of them: the tests hold the
    formula, written anew.
    """

    def __init__(
        self,
        net: nn.Module,
        teacher: nn.Module,
        alpha: float = 1.0,
        temperature: float = 1.0,
        beta: float = 0.1,
        begin: int = 60,
        **kwargs: Any,
    ) -> None:
        super().__init__(net, teacher, **kwargs)
        if not 0 <= alpha <= 1 or not temperature > 0 or beta < 0 or begin < 0:
            raise ValueError(
                "IAD needs alpha in [0, 1], temperature > 0, beta >= 0 and begin >= 0, got "
                f"{alpha}, {temperature}, {beta} and {begin}."
            )
        self.alpha = alpha
        self.temperature = temperature
        self.beta = beta
        self.begin = begin

    def generate(self, batch: Batch) -> Views:
        """Craft examples that maximise the cross-entropy, and ask the teacher about them."""
        x_adv = self.craft(batch)
        return Views(x_adv, more={"teacher": self.taught(batch.x), "teacher_adv": self.taught(x_adv)})

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return the divergences from the teacher and from the net's clean output, and the clean cross-entropy."""
        logits_adv = self.logits(views.adv)
        logits = self.logits(batch.x)
        natural = cross_entropy(logits, batch.y)
        robust = self.temperature**2 * kl_divergence(
            logits_adv / self.temperature, views.more["teacher"] / self.temperature
        )
        if self.current_epoch >= self.begin:
            p = at_least_fp32(views.more["teacher_adv"]).softmax(1)
            trust = p.gather(1, hard_labels(batch.y)[:, None])[:, 0] ** self.beta
            robust = robust + (1 - trust) * kl_divergence(logits_adv, logits)
        robust = self.weigh(robust, logits_adv, batch.y)
        total = self.alpha * robust + (1 - self.alpha) * natural
        return Losses(total, {"natural": natural, "robust": robust}, logits_adv)
