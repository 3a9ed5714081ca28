"""Targeted attacks: wraps a net and an attack so that an error of the wrapped net is a targeted success."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.ensemble import Ensemble
from lightning_robust.attacks.objectives import LOSSES
from lightning_robust.attacks.transfer import Transfer
from lightning_robust.runtime.outputs import logits_of


class TowardClass(nn.Module):
    """Shows two logits of a net: the greatest of all other classes, and the target's.

    An image of label 0 is misclassified by it exactly if the net takes the image for the target. So every attack that
    leads away from a label becomes one that leads to the target, and a search for the nearest example finds the nearest
    of the target's class. A tie is no success.

    Args:
        net: images [b ...] to logits [b k], or to what holds them.
        target: number of the class, in [0, k).

    Example:
        >>> TowardClass(nn.Identity(), 2)(torch.tensor([[1.0, 3.0, 2.0], [0.0, 1.0, 5.0]]))
        tensor([[3., 2.],
                [1., 5.]])

    Paper: their difference is f6 of Carlini & Wagner 2017 (arXiv 1608.04644), section V.A.
    """

    def __init__(self, net: nn.Module, target: int) -> None:
        super().__init__()
        self.net = net
        self.target = target

    def forward(self, x: Tensor) -> Tensor:
        """Return the two logits [b 2] of each image."""
        logits = logits_of(self.net(x))
        here = torch.arange(logits.shape[1], device=logits.device) == self.target
        return torch.stack([logits.masked_fill(here, -torch.inf).amax(1), logits[:, self.target]], 1)


def toward(attack: Attack, target: int) -> Attack:
    """Return an attack as it is run on a `TowardClass`: it ascends the difference of the two logits.

    Cross-entropy has no gradient left where the target is improbable, DLR needs more logits, and there is one class
    alone to lead to.

    Args:
        attack: leads away from the label, whatever its settings.
        target: number of the class.

    Example:
        >>> from lightning_robust.attacks import APGD
        >>> attack = toward(APGD(targets=9), 3)
        >>> attack.loss, attack.targets
        ('margin', None)
    """
    if isinstance(attack, Transfer):
        return Transfer(toward(attack.attack, target), TowardClass(attack.surrogate, target))
    if attack.stages:
        return Ensemble({name: toward(stage, target) for name, stage in attack.stages.items()})
    other = copy.copy(attack)
    settings: dict[str, Any] = {"targets": None, "targeted": False, "random_targets": None}
    if getattr(attack, "loss", None) in LOSSES:
        settings["loss"] = "margin"
    vars(other).update({name: value for name, value in settings.items() if name in vars(attack)})
    return other
