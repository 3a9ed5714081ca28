"""Adversarial training: the net learns from PGD examples."""

from lightning_robust.defenses.margin_defense import MarginDefense
from lightning_robust.types import Batch, Losses, Views


class AT(MarginDefense):
    """Trains on the cross-entropy of PGD examples, `CE(f(x'), y)`; with a reweighting w, on `w CE(f(x'), y)`.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        kwargs: settings of `MarginDefense`.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> from lightning_robust.types import Batch
        >>> model = AT(SmallConvNet(in_channels=1, num_classes=10), attack=PGD(steps=2))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Madry et al. 2018 (arXiv 1706.06083), equation 2.1.
    Reference: locuslab/robust_overfitting@c47a25c.
    Deviates: the reference attacks in training mode, which updates the running statistics (`attack_bn="train"` does
    the same). The default here is evaluation mode; on the net and batch of tests/golden a third of the pixels differ.
    dedeswim/vits-robustness-torch@2f5a214 forwards the clean batch in training mode too, which changes the running
    statistics alone: by 1 % to 3 % on the recorded step.
    """

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return `CE(f(x'), y)` of each sample, times its weight if there is a reweighting."""
        logits = self.logits(views.adv)
        return Losses(self.weigh(self.cross_entropy(logits, batch.y), logits, batch.y), {}, logits)
