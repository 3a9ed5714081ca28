"""Adversarial training with margin-aware instance reweighting (MAIL-AT), as a method of its own name."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightning_robust.defenses.at import AT
from lightning_robust.defenses.several import several
from lightning_robust.defenses.stored_arguments import rebuilt
from lightning_robust.parts.reweighting import MarginWeights, Reweighting


class MAIL(AT):
    """Trains on `w CE(f(x'), y)` with weights w from probability margins.

    MAIL-TRADES and MAIL-MART are `TRADES` and `MART` with `reweighting=MarginWeights(...)`.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        bias: bias of the weights, see `MarginWeights`.
        slope: slope of the weights, see `MarginWeights`.
        start_epoch: first epoch, counting from 0, that weighs; shorter fits are never weighted.
        reweighting: further weights, by which these are multiplied.
        kwargs: settings of `Defense`. The authors' attack is `PGD(start="normal")`.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> from lightning_robust.types import Batch
        >>> model = MAIL(SmallConvNet(in_channels=1, num_classes=10), attack=PGD(steps=2), start_epoch=0)
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Liu et al. 2021 (arXiv 2106.07904), algorithm 1.
    Reference: QizhouWang/MAIL@8367c64.
    Deviates: before `start_epoch` each method runs unweighted, where the authors run plain adversarial training for
    MAIL-TRADES and MAIL-MART too.
    """

    def __init__(
        self,
        net: nn.Module,
        bias: float = -0.5,
        slope: float = 10.0,
        start_epoch: int = 76,
        reweighting: Reweighting | Sequence[Reweighting] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            net, reweighting=[MarginWeights(bias, slope, start_epoch), *several(rebuilt(reweighting))], **kwargs
        )
