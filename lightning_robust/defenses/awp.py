"""Adversarial training with adversarial weight perturbation (AT-AWP), as a method of its own name."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from lightning_robust.defenses.at import AT
from lightning_robust.defenses.several import several
from lightning_robust.defenses.stored_arguments import rebuilt
from lightning_robust.parts import AdversarialWeightPerturbation, WeightPerturbation


class AWP(AT):
    """Trains on `CE(f(x'), y)` at weights moved by gamma times their norm to where the loss is larger.

    Any other method takes `weight_perturbation=AdversarialWeightPerturbation(...)` instead.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        gamma: size of the perturbation relative to each layer's weights.
        start_epoch: first epoch, counting from 0, that perturbs.
        restore: when the weights are moved back, see `WeightPerturbation`.
        weight_perturbation: further perturbations, which move the weights on.
        kwargs: settings of `Defense`.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> from lightning_robust.types import Batch
        >>> model = AWP(SmallConvNet(in_channels=1, num_classes=10), attack=PGD(steps=2))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Wu et al. 2020 (arXiv 2004.05884).
    Reference: csdongxian/AWP@a7acf5d (AT_AWP), whose attack runs with `attack_bn="train"`.
    Deviates: see `lightning_robust.parts.AdversarialWeightPerturbation`.
    """

    def __init__(
        self,
        net: nn.Module,
        gamma: float = 0.01,
        start_epoch: int = 0,
        restore: Literal["before_step", "after_step"] = "before_step",
        weight_perturbation: WeightPerturbation | Sequence[WeightPerturbation] | None = None,
        **kwargs: Any,
    ) -> None:
        first = AdversarialWeightPerturbation(gamma, start_epoch, restore)
        super().__init__(net, weight_perturbation=[first, *several(rebuilt(weight_perturbation))], **kwargs)
