"""What attacks share that look for the nearest adversarial example instead of one within a radius."""

from abc import abstractmethod

import torch
from torch import Tensor

from lightning_robust.attacks.base import Attack, craft, misclassified
from lightning_robust.draws import Draws
from lightning_robust.modes import AttackBN
from lightning_robust.threat import column
from lightning_robust.types import Net, Objective, Radius


class MinimumNorm(Attack):
    """Looks for the smallest perturbation, in the threat's norm, that makes the net err.

    Called as an attack it gives the examples that lie within the radius, and the clean image for the other samples.
    """

    @abstractmethod
    def nearest(
        self,
        net: Net,
        x: Tensor,
        y: Tensor,
        *,
        bn: AttackBN = "eval",
        draws: Draws | None = None,
        enough: Radius = 0.0,
    ) -> Tensor:
        """The nearest example found of each sample, of whatever size.

        Args:
            net: images to logits; left as it was.
            x: clean images [b c h w] in the threat's box.
            y: labels [b].
            bn: how the net's batch norms run meanwhile.
            draws: source of random numbers.
            enough: a sample leaves the search as soon as an example within this radius is found, one or per sample [b].

        Returns:
            Examples [b c h w]; the clean image where none was found, and where the net errs on it already.
        """

    def __call__(
        self,
        net: Net,
        x: Tensor,
        target: Tensor,
        *,
        objective: Objective | None = None,
        eps: Radius | None = None,
        step_size: Radius | None = None,
        start: Tensor | None = None,
        bn: AttackBN = "eval",
        draws: Draws | None = None,
    ) -> Tensor:
        """The nearest examples, where they lie within the radius; see `Attack.__call__`."""
        radius = self.threat.eps if eps is None else eps
        x_adv = self.nearest(net, x, target, bn=bn, draws=draws, enough=radius)
        inside = self.threat.distance(x_adv, x) <= column(radius, x).flatten()
        return torch.where(column(inside, x).bool(), x_adv, x)


def minimum_norms(attack: MinimumNorm, net: Net, x: Tensor, y: Tensor, draws: Draws | None = None) -> Tensor:
    """Sizes [b] of the smallest perturbations found: 0 where the net errs already, inf where there was none.

    They bound robust accuracy from above at every radius at once.
    """
    x_adv = attack.nearest(net, x, y, draws=draws)
    with craft(net, x_adv, y, "eval", draws) as (x_adv, y, _), torch.no_grad():
        wrong = misclassified(net, x_adv, net(x_adv), y)
    return torch.where(wrong, attack.threat.distance(x_adv, x), torch.inf)
