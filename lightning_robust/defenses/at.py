"""Adversarial training."""

from lightning_robust.defenses.base import Defense
from lightning_robust.losses import cross_entropy
from lightning_robust.types import Batch, Losses, Views


class AT(Defense):
    """Adversarial training: cross-entropy on PGD examples, `CE(f(x'), y)`.

    With a reweighting w, `w CE(f(x'), y)`.

    Paper: Madry et al. 2018 (arXiv 1706.06083), equation 2.1.
    Reference: locuslab/robust_overfitting@c47a25c.
    Deviates: the reference attacks in training mode, updating the running statistics (`attack_bn="train"` does so);
    the default here is evaluation mode: on the net and batch of tests/golden a third of the pixels differ.
    """

    def loss(self, batch: Batch, views: Views) -> Losses:
        """`CE(f(x'), y)`."""
        logits = self.net(views.adv)
        return Losses(self.weigh(cross_entropy(logits, batch.y), logits, batch.y), {}, logits)
