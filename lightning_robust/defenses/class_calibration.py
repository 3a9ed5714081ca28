"""The base of CFA: each class has a radius that follows how robust the net is on it."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_robust.defenses.class_memory import ClassMemory
from lightning_robust.parts.class_means import ClassMeans
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.types import Batch, Losses, Views
from lightning_robust.utils.labels import hard_labels


class ClassCalibration(ClassMemory):
    """Attacks each class k in its own radius, `(lambda_1 + t_k) eps`; the base of CFA's methods.

    t_k is the share of the class's training samples that the net classified correctly under attack in the epoch before.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        lambda_1: what t_k is raised by, >= 0.
        begin: first epoch, counting from 0, in which classes have radii of their own, >= 1.
        kwargs: settings of `Defense`. A step_size of the attack is the same for all classes.

    Raises:
        ValueError: for settings out of range.
    """

    def __init__(self, net: nn.Module, lambda_1: float = 0.5, begin: int = 10, **kwargs: Any) -> None:
        super().__init__(net, **kwargs)
        if lambda_1 < 0 or begin < 1:
            raise ValueError(f"{type(self).__name__} needs lambda_1 >= 0 and begin >= 1, got {lambda_1} and {begin}.")
        self.lambda_1 = lambda_1
        self.begin = begin
        self.means = ClassMeans(size=1, initial=1.0)
        self._robustness = self._right = torch.zeros(0)

    def calibrated(self, value: float, base: float, robustness: Tensor) -> Tensor:
        """Return `(base + t) value` for each sample [b], or the value itself before `begin`.

        Args:
            value: eps or beta.
            base: what t is raised by.
            robustness: t of each sample's class [b].
        """
        scale = base + robustness if self.current_epoch >= self.begin else torch.ones_like(robustness)
        return value * scale

    def generate(self, batch: Batch) -> Views:
        """Craft the method's examples in the classes' radii."""
        k = self._classes or logits_no_grad(self.net, batch.x[:1]).shape[1]
        self._robustness = self.recall(batch.y, batch.x.new_zeros(len(batch.x), k))[:, 0]
        views = super().generate(batch)
        return views._replace(more={**views.more, "robustness": self._robustness})

    def craft(self, batch: Batch, target: Tensor | None = None, **settings: Any) -> Tensor:
        """Run the training attack on the batch, in the classes' radii."""
        eps = self.calibrated(self.attack.threat.eps, self.lambda_1, self._robustness)
        return super().craft(batch, target, eps=eps, **settings)

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return the method's loss, and note which samples the net classified correctly under attack."""
        losses = super().loss(batch, views)  # type: ignore[safe-super]  # that of AT or TRADES, which comes next
        self._right = losses.logits_adv.argmax(1) == hard_labels(batch.y)
        return losses

    def remembered(self) -> Tensor:
        """Return whether the net was right under attack [b 1] in the last `loss`."""
        return self._right[:, None].float()
