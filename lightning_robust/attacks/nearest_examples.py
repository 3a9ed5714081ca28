"""The nearest of the examples that several attacks find."""

from collections.abc import Mapping

from torch import Tensor

from lightning_robust.attacks import progress
from lightning_robust.attacks.ddn import DDN
from lightning_robust.attacks.fab import FAB
from lightning_robust.attacks.fmn import FMN
from lightning_robust.attacks.minimum_norm import MinimumNorm, Nearest
from lightning_robust.attacks.pdpgd import PDPGD
from lightning_robust.attacks.sigma_zero import SigmaZero
from lightning_robust.attacks.superdeepfool import SuperDeepFool
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Norm, Threat
from lightning_robust.types import Net


class NearestExamples(MinimumNorm):
    """Runs several attacks that look for the nearest example, and keeps the nearest that any of them finds.

    The attacks do not know of each other, so the result is never farther away than that of any one of them. As
    evaluation it gives the curve of accuracy against radius in one run.

    Args:
        threat: any norm, and the box; called as an attack, also the radius.
        attacks: the attacks by name, all in the threat's norm; by default FMN, PDPGD and FAB-T in linf and l1, in l2
            also DDN and SuperDeepFool, and in l0 sigma-zero, FMN and PDPGD.

    Raises:
        TypeError: for an attack that does not look for the nearest example.
        ValueError: for no attacks, or one that does not work in the threat's norm.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks.minimum_norm import minimum_norms
        >>> net = torch.nn.Linear(2, 2, bias=False)
        >>> net.weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # its boundary is where the first value is 0
        >>> attack = NearestExamples(Threat("l2", 1.0, lower=-1.0))
        >>> list(attack.attacks)
        ['fmn', 'pdpgd', 'fab-t', 'ddn', 'sdf']
        >>> minimum_norms(attack, net, torch.tensor([[0.3, 0.1]]), torch.tensor([0])).mul(100).round()
        tensor([30.])

    Paper: Cina et al. 2025 (AttackBench, arXiv 2404.19460) compares most of these attacks, and takes the nearest
    example of all attacks as the best that is known.
    """

    norms = ("linf", "l2", "l1", "l0")

    def __init__(self, threat: Threat | None = None, attacks: Mapping[str, MinimumNorm] | None = None) -> None:
        super().__init__(threat)
        if attacks is not None and not attacks:
            raise ValueError("NearestExamples needs one attack or more, got none.")
        for attack in (attacks or {}).values():
            if not isinstance(attack, MinimumNorm):
                raise TypeError(f"{type(attack).__name__} does not look for the nearest example: take FMN or the like.")
        self._default = attacks is None
        self.attacks = self._at(self.threat, _attacks(self.threat.norm) if attacks is None else attacks)

    def with_threat(self, threat: Threat) -> "NearestExamples":
        """Return the same with each of its attacks under this threat; those of another norm, where none were given."""
        other = super().with_threat(threat)
        other.attacks = self._at(threat, _attacks(threat.norm) if self._default else self.attacks)
        return other

    def search(self, net: Net, y: Tensor, logits: Tensor, found: Nearest, rng: SampleRNG) -> None:
        """Let each attack search on its own for the samples that are left; see `MinimumNorm.search`."""
        for number, attack in enumerate(progress.phases(list(self.attacks.values()))):
            row = found.left
            own = found.anew(row)
            attack.search(net, y[row], logits[row], own, rng[row].fork(number))
            found.take(row, own.x_adv, own.size.isfinite())

    @staticmethod
    def _at(threat: Threat, attacks: Mapping[str, MinimumNorm]) -> dict[str, MinimumNorm]:
        return {name: attack.with_threat(threat) for name, attack in attacks.items()}


def _attacks(norm: Norm) -> dict[str, MinimumNorm]:
    """The attacks that together find the nearest examples in a norm."""
    if norm == "l0":
        return {"sigma-zero": SigmaZero(), "fmn": FMN(Threat("l0", 1)), "pdpgd": PDPGD(Threat("l0", 1))}
    common = {"fmn": FMN(), "pdpgd": PDPGD(), "fab-t": FAB(targets=9)}
    return {**common, "ddn": DDN(), "sdf": SuperDeepFool()} if norm == "l2" else common
