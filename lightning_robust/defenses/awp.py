"""Adversarial weight perturbation on adversarial training, by name."""

from typing import Any, Literal

from torch import nn

from lightning_robust.defenses.at import AT
from lightning_robust.parts.weight_perturbation import AdversarialWeightPerturbation


class AWP(AT):
    """AT-AWP: `CE(f(x'), y)` at weights moved by gamma times their norm to where it is worse.

    On any other method, AWP is `weight_perturbation=AdversarialWeightPerturbation(...)`.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        gamma: size of the perturbation relative to each layer's weights.
        start_epoch: first epoch, counting from 0, that perturbs.
        restore: when the weights are moved back, see `WeightPerturbation`.
        kwargs: see `Defense`.

    Paper: Wu et al. 2020 (arXiv 2004.05884).
    Reference: csdongxian/AWP@a7acf5d (AT_AWP), whose attack runs with `attack_bn="train"`.
    Deviates: see `lightning_robust.parts.weight_perturbation.AdversarialWeightPerturbation`.
    """

    def __init__(
        self,
        net: nn.Module,
        gamma: float = 0.01,
        start_epoch: int = 0,
        restore: Literal["before_step", "after_step"] = "before_step",
        **kwargs: Any,
    ) -> None:
        super().__init__(net, weight_perturbation=AdversarialWeightPerturbation(gamma, start_epoch, restore), **kwargs)
