"""Methods whose cross-entropy can ask the label's logit for a margin over the others."""

from typing import Any

from torch import Tensor, nn

from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.pgd import PGD
from lightning_robust.defenses.base import Defense
from lightning_robust.losses import at_least_fp32, cross_entropy
from lightning_robust.utils.labels import smoothed


class MarginDefense(Defense):
    """Trains with `CE(f - logit_margin y, y)` in place of the cross-entropy; the base of AT, TRADES, ALP and others.

    The margin is in the loss alone, not in the attack. Together with `lightning_robust.models.Hypersphere` it is
    hypersphere embedding, where the paper's margin m of a cosine is `logit_margin = scale m`.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        logit_margin: what is taken from the label's logit, >= 0; from those of a soft label, in proportion to it.
        attack: the training attack, see `Defense`; named here so that checkpoints tell that it is the default one.
        kwargs: further settings of `Defense`.

    Raises:
        ValueError: for a negative logit_margin.

    Example:
        >>> import torch
        >>> from lightning_robust.defenses import Standard
        >>> from lightning_robust.models import SmallConvNet
        >>> model = Standard(SmallConvNet(in_channels=1, num_classes=10), logit_margin=2.0)
        >>> model.cross_entropy(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        tensor([0.6931])

    Paper: Pang et al. 2020 (arXiv 2002.08619), equation 8.
    Reference: ShawnXYang/AT_HE@dad6a41.
    """

    def __init__(
        self, net: nn.Module, *, logit_margin: float = 0.0, attack: PGD | Attack | None = None, **kwargs: Any
    ) -> None:
        super().__init__(net, attack=attack, **kwargs)
        if logit_margin < 0:
            raise ValueError(f"logit_margin must be >= 0, got {logit_margin}.")
        self.logit_margin = logit_margin

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy [b] of logits [b k] and labels [b] or [b k], with the margin if there is one."""
        if self.logit_margin:
            logits = at_least_fp32(logits)
            logits = logits - self.logit_margin * smoothed(y, logits.shape[1], 0.0, logits)
        return cross_entropy(logits, y)
