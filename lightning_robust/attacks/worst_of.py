"""The strongest example of several attacks: the attack of MAX training."""

import torch
from torch import Tensor

from lightning_robust.attacks import progress
from lightning_robust.attacks.call import Call
from lightning_robust.attacks.objectives import LOSSES
from lightning_robust.attacks.several_attacks import SeveralAttacks
from lightning_robust.threat import per_image
from lightning_robust.types import Net


class WorstOf(SeveralAttacks):
    """Runs each of several attacks, and keeps the example of each sample with the highest objective.

    In AT it is MAX training against several norms; TRADES, MART and the like take it as well.

    Args:
        attacks: the attacks by name, which may be at several norms.

    Raises:
        ValueError: for no attacks, or several boxes.

    Example:
        >>> from lightning_robust.attacks.pgd import PGD
        >>> from lightning_robust.threat import Threat
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> attack = WorstOf({"linf": PGD(Threat("linf", "8/255")), "l2": PGD(Threat("l2", 0.5))})
        >>> [str(threat) for threat in attack.threats]
        ['linf 8/255', 'l2 0.5']
        >>> attack(net, x, y).shape
        torch.Size([2, 3, 4, 4])

    Paper: Tramer & Boneh 2019 (arXiv 1904.13000), the "max" strategy of section 3.
    Reference: locuslab/robust_union@ef34194 (pgd_worst_dir); with its attacks, the examples are the reference's.
    """

    def _perturb(self, net: Net, x: Tensor, target: Tensor, call: Call) -> Tensor:
        """Run each attack, and keep what is highest; of equals, the first."""
        objective = call.objective or LOSSES["ce"]
        best, highest = x, torch.full_like(x.flatten(1)[:, 0], -torch.inf)
        numbers = progress.phases(range(len(self.parts)))
        # compared once all are there: running statistics, under "train", see the passes in the reference's order
        for x_adv in [self._part(number, net, x, target, call) for number in numbers]:
            with torch.no_grad():
                value = objective(net(x_adv), target).to(highest)
            better = value > highest
            best = torch.where(per_image(better, x).bool(), x_adv, best)
            highest = torch.where(better, value, highest)
        return best
