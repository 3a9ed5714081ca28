"""Training without a defense, the baseline of every comparison."""

from lightning_robust.defenses.base import Defense
from lightning_robust.losses import cross_entropy
from lightning_robust.types import Batch, Losses, Views


class Standard(Defense):
    """Cross-entropy on the clean images: `CE(f(x), y)`."""

    def generate(self, batch: Batch) -> Views:
        """The clean images themselves."""
        return Views(batch.x)

    def loss(self, batch: Batch, views: Views) -> Losses:
        """`CE(f(x), y)`."""
        logits = self.net(views.adv)
        return Losses(self.weigh(cross_entropy(logits, batch.y), logits, batch.y), {}, logits)
