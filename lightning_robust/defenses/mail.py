"""MAIL on adversarial training, by name."""

from typing import Any

from torch import nn

from lightning_robust.defenses.at import AT
from lightning_robust.parts.reweighting import MarginWeights


class MAIL(AT):
    """MAIL-AT: `w CE(f(x'), y)` with weights w from probability margins.

    MAIL-TRADES and MAIL-MART are `TRADES` and `MART` with `reweighting=MarginWeights(...)`.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        bias: of the weights, see `MarginWeights`.
        slope: of the weights.
        start_epoch: first epoch, counting from 0, that weighs.
        kwargs: see `Defense`. The authors' attack is `PGD(start="normal")`.

    Paper: Liu et al. 2021 (arXiv 2106.07904), algorithm 1.
    Reference: QizhouWang/MAIL@8367c64.
    Deviates: before `start_epoch` each method runs unweighted, where the authors run plain adversarial training for
    MAIL-TRADES and MAIL-MART too.
    """

    def __init__(
        self, net: nn.Module, bias: float = -0.5, slope: float = 10.0, start_epoch: int = 76, **kwargs: Any
    ) -> None:
        super().__init__(net, reweighting=MarginWeights(bias, slope, start_epoch), **kwargs)
