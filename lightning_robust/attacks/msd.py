"""Multi steepest descent (MSD): each step takes the direction, among several norms, that raises the objective most."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_robust.attacks import progress
from lightning_robust.attacks.call import Call
from lightning_robust.attacks.objectives import LOSSES
from lightning_robust.attacks.pgd import PGD
from lightning_robust.attacks.several_attacks import SeveralAttacks
from lightning_robust.attacks.start import Start, check_start, starting_point
from lightning_robust.runtime.gradients import input_gradient
from lightning_robust.threat import per_image
from lightning_robust.types import Net


class MSD(SeveralAttacks):
    """Takes, in each step, the steps of several PGD attacks from one point, and keeps each sample's highest.

    Each step is projected into the ball of its own norm. The highest point of all steps is returned.

    Args:
        attacks: PGD attacks by name, of which the threats, the step sizes and the number of steps are used; for l1,
            `SparsePGD` makes the steps of the reference.
        start: "none", or "normal" or "uniform" in the first attack's ball.

    Raises:
        ValueError: for attacks that are no plain PGD, or of several numbers of steps.

    Example:
        >>> from lightning_robust.threat import Threat
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> attack = MSD({"linf": PGD(Threat("linf", "8/255"), steps=5), "l2": PGD(Threat("l2", 0.5), steps=5)})
        >>> attack(net, x, y).shape
        torch.Size([2, 3, 4, 4])

    Paper: Maini, Wong & Kolter 2020 (arXiv 1909.04068), algorithm 1.
    Reference: locuslab/robust_union@ef34194 (msd_v0).
    Deviates: the l1 step, as `SparsePGD` says; the reference compares objectives in half precision. Given its
    projection, the examples are the reference's to rounding.
    """

    def __init__(self, attacks: Mapping[str, PGD], start: Start = "none") -> None:
        super().__init__(attacks)
        check_start(start)
        for name, attack in self.attacks.items():
            pgd = attack if isinstance(attack, PGD) and attack.within_radius else None
            if pgd is None or pgd.targeted or pgd.momentum or pgd.restarts > 1:
                raise ValueError(f"MSD takes steps of plain PGD, but {name!r} is not: leave its other settings out.")
        steps = {attack.steps for attack in attacks.values()}
        if len(steps) > 1:
            raise ValueError(f"MSD takes the steps of all attacks together, so as many of each; got {sorted(steps)}.")
        self.start = start
        (self.steps,) = steps

    def _perturb(self, net: Net, x: Tensor, target: Tensor, call: Call) -> Tensor:
        """Take the steps, and return the highest points."""
        objective = call.objective or LOSSES["ce"]
        share = call.eps / self.threat.eps if self.threat.eps else 1.0
        radii = [share * part.threat.eps + 0 * call.eps for part in self.parts]
        x_adv = starting_point(x, self.threat, self.start, radii[0], call.rng)
        best, highest = x_adv, torch.full_like(x.flatten(1)[:, 0], -torch.inf)
        for step in progress.steps(self.steps):
            grad, _ = input_gradient(lambda z: objective(net(z), target), x_adv)
            begin, reached = x_adv, torch.full_like(highest, -torch.inf)
            for number, part in enumerate(self.parts):
                assert isinstance(part, PGD)
                rng = call.rng.fork(number).fork(step)
                candidate = part.move(begin, x, grad, radii[number], part._step(radii[number]), rng)
                with torch.no_grad():
                    value = objective(net(candidate), target).to(highest)
                better = value > reached
                x_adv = torch.where(per_image(better, x).bool(), candidate, x_adv)
                reached = torch.where(better, value, reached)
            better = reached > highest
            best = torch.where(per_image(better, x).bool(), x_adv, best)
            highest = torch.where(better, reached, highest)
        return best
