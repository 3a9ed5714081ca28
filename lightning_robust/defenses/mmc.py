"""Max-Mahalanobis center loss (MMC): draws the features of adversarial examples to the fixed centre of their class."""

from typing import Any

from torch import nn

from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.pgd import PGD
from lightning_robust.defenses.base import Defense
from lightning_robust.losses import label_logit
from lightning_robust.models.max_mahalanobis import MaxMahalanobisLinear
from lightning_robust.types import Batch, Losses, Views


class MMC(Defense):
    """Trains on `|f(x') - mu_y|^2`, the squared distance of an adversarial example's features from its class's centre.

    It is minus the label's logit of the net, which is a `MaxMahalanobis`. With a reweighting w, it is multiplied by w;
    of a soft label it is the mean over the classes.

    Args:
        net: images [b c h w] in [0, 1] to logits `-|f(x) - mu_k|^2` [b k]: a `MaxMahalanobis`.
        attack: the training attack, see `Defense`; by default PGD-10 on the same loss. The paper's leads to random
            classes: `PGD(loss="label_logit", targeted=True, random_targets=10)`.
        kwargs: settings of `Defense`.

    Raises:
        ValueError: for a net without such logits.

    Example:
        >>> import torch
        >>> from lightning_robust.models import MaxMahalanobis, SmallConvNet
        >>> from lightning_robust.types import Batch
        >>> model = MMC(MaxMahalanobis(SmallConvNet(in_channels=1, num_classes=10)))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Pang et al. 2020 (arXiv 1905.10626), "Rethinking softmax cross-entropy loss for adversarial robustness".
    Reference: P2333/Max-Mahalanobis-Training@8d3760a.
    Deviates: the reference draws targets among all classes, the label's included, and its attack takes cleverhans'
    cross-entropy. It is written for TensorFlow 1, so no step of it was recorded.
    """

    def __init__(self, net: nn.Module, *, attack: PGD | Attack | None = None, **kwargs: Any) -> None:
        super().__init__(net, attack=attack or PGD(loss="label_logit"), **kwargs)
        if not any(isinstance(module, MaxMahalanobisLinear) for module in net.modules()):
            raise ValueError(
                f"MMC lowers minus the label's logit, which has no least value in {type(net).__name__}: give it "
                "MaxMahalanobis around the net."
            )

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return `|f(x') - mu_y|^2` of each sample, times its weight if there is a reweighting."""
        logits = self.logits(views.adv)
        return Losses(self.weigh(label_logit(logits, batch.y), logits, batch.y), {}, logits)
