"""Adversarial training with effective margin regularization (AT-EMR), as a method of its own name."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightning_robust.defenses.at import AT
from lightning_robust.defenses.several import several
from lightning_robust.defenses.stored_arguments import rebuilt
from lightning_robust.parts.regularizers import EffectiveWeightNorm, Regularizer


class EMR(AT):
    """Trains on `CE(f(x'), y) + weight ||grad_x sum_k p_k f_k(x')||_2^2`.

    Any other method takes `regularizers=[EffectiveWeightNorm(weight=3 / 128, temperature=40.0)]` instead, whose default
    temperature is 1.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        weight: weight of the penalty, the paper's lambda over its batch size.
        temperature: temperature of the softmax that averages the classes' effective weights.
        milestones: epochs, counting from 0, from which the weight is ten times smaller.
        regularizers: further penalties.
        kwargs: settings of `Defense`.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> from lightning_robust.types import Batch
        >>> model = EMR(SmallConvNet(in_channels=1, num_classes=10), attack=PGD(steps=2))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Liu, Chan 2022 (arXiv 2210.05118).
    Reference: ziquanliu/Effective_Margin_Reg@c3e041c, whose attack updates running statistics (`attack_bn="train"`).
    Deviates: see `EffectiveWeightNorm`.
    """

    def __init__(
        self,
        net: nn.Module,
        weight: float = 3 / 128,
        temperature: float = 40.0,
        milestones: Sequence[int] = (),
        regularizers: Regularizer | Sequence[Regularizer] | None = None,
        **kwargs: Any,
    ) -> None:
        penalty = EffectiveWeightNorm(weight, temperature, milestones=milestones)
        super().__init__(net, regularizers=[penalty, *several(rebuilt(regularizers))], **kwargs)
