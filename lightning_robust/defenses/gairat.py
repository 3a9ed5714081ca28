"""Geometry-aware instance-reweighted adversarial training (GAIRAT), as a method of its own name."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from lightning_robust.defenses.at import AT
from lightning_robust.defenses.several import several
from lightning_robust.defenses.stored_arguments import rebuilt
from lightning_robust.parts.kappa_weights import KappaWeights
from lightning_robust.parts.reweighting import Reweighting


class GAIRAT(AT):
    """Trains on `w CE(f(x'), y)` with weights w that fall with the attack's points that are classified correctly.

    GAIR-TRADES and GAIR-MART are `TRADES` and `MART` with `reweighting=KappaWeights(...)`.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        shift: the paper's lambda, see `KappaWeights`.
        function: "tanh", "sigmoid" or "discrete", see `KappaWeights`.
        start_epoch: first epoch, counting from 0, that weighs; shorter fits are never weighted.
        reweighting: further weights, by which these are multiplied.
        kwargs: settings of `Defense`; the attack is PGD without restarts.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> from lightning_robust.types import Batch
        >>> model = GAIRAT(SmallConvNet(in_channels=1, num_classes=10), attack=PGD(steps=2), start_epoch=0)
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Zhang et al. 2021 (arXiv 2010.01736), algorithm 2.
    Reference: zjfheart/Geometry-aware-Instance-reweighted-Adversarial-Training@16813b5.
    Deviates: none known; given the start, the step is the reference's to rounding.
    """

    def __init__(
        self,
        net: nn.Module,
        shift: float = -1.0,
        function: Literal["tanh", "sigmoid", "discrete"] = "tanh",
        start_epoch: int = 59,
        reweighting: Reweighting | Sequence[Reweighting] | None = None,
        **kwargs: Any,
    ) -> None:
        own = KappaWeights(shift, function, start_epoch)
        super().__init__(net, reweighting=[own, *several(rebuilt(reweighting))], **kwargs)
