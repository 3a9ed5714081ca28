"""Standard training on clean images, the baseline of every comparison."""

from lightning_robust.defenses.margin_defense import MarginDefense
from lightning_robust.types import Batch, Losses, Views


class Standard(MarginDefense):
    """Trains on the cross-entropy of the clean images, `CE(f(x), y)`.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        kwargs: settings of `MarginDefense`; the attack only says at which threat an evaluation attacks.

    Example:
        >>> import torch
        >>> from lightning_robust.models import SmallConvNet
        >>> from lightning_robust.types import Batch
        >>> model = Standard(SmallConvNet(in_channels=1, num_classes=10), channels_last=True)
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])
    """

    @property
    def trained_at(self) -> None:
        """Return None: no training example is perturbed."""

    def generate(self, batch: Batch) -> Views:
        """Return the clean images themselves."""
        return Views(batch.x)

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return `CE(f(x), y)` of each sample, times its weight if there is a reweighting."""
        logits = self.logits(views.adv)
        return Losses(self.weigh(self.cross_entropy(logits, batch.y), logits, batch.y), {}, logits)
