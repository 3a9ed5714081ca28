"""The base of attacks that hold several others, each at a threat of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, TypeVar

from torch import Tensor

from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.call import Call
from lightning_robust.threat import Norm, Threat
from lightning_robust.types import Net

S = TypeVar("S", bound="SeveralAttacks")


class SeveralAttacks(Attack):
    """Holds several attacks by name, which may be at several norms: training attacks against all of them.

    Its own threat, and so the radius that a call or `AttackStrength` changes, is the first attack's; the radii of the
    others keep their proportion to it. A defense with such an attack is evaluated at each threat: attacks of
    `RobustEvaluation` without a threat run once at each.

    Args:
        attacks: the attacks by name; of one box.

    Raises:
        ValueError: for no attacks, or several boxes.
    """

    norms: ClassVar[Sequence[Norm]] = ("linf", "l2", "l1", "l0")

    def __init__(self, attacks: Mapping[str, Attack]) -> None:
        if not attacks:
            raise ValueError(f"{type(self).__name__} needs one attack or more, got none.")
        super().__init__(next(iter(attacks.values())).threat)
        self.attacks = dict(attacks)
        self._threat_given = any(attack.threat_given for attack in attacks.values())
        boxes = {(threat.lower, threat.upper) for threat in self.threats}
        if len(boxes) > 1:
            raise ValueError(f"{type(self).__name__} needs attacks in one box, got {sorted(boxes)}.")

    @property
    def parts(self) -> tuple[Attack, ...]:
        """The attacks, in the order in which they were given."""
        return tuple(self.attacks.values())

    @property
    def within_radius(self) -> bool:  # type: ignore[override]
        """Whether its examples stay within its threat: not where there are several, which an evaluation runs apart."""
        return len(self.threats) == 1 and all(attack.within_radius for attack in self.parts)

    @property
    def uses(self) -> frozenset[str]:  # type: ignore[override]
        """The optional arguments that all its attacks use, but for those that mean one attack."""
        common = frozenset.intersection(*(frozenset(attack.uses) for attack in self.parts))
        return common - {"watch", "start", "step_size"}

    def with_threat(self: S, threat: Threat) -> S:
        """Return the same with each of its attacks under this threat."""
        other = super().with_threat(threat)
        other.attacks = {name: attack.with_threat(threat) for name, attack in self.attacks.items()}
        return other

    def with_eps(self: S, eps: float) -> S:
        """Return the same with another radius of the first attack, and all others in proportion."""
        share = eps / self.threat.eps if self.threat.eps else 1.0
        attacks = {name: attack.with_eps(share * attack.threat.eps) for name, attack in self.attacks.items()}
        return self._altered(attacks=attacks, threat=replace(self.threat, eps=eps), _threat_given=True)

    def _part(self, number: int, net: Net, x: Tensor, target: Tensor, call: Call) -> Tensor:
        """Run one of its attacks, with random numbers of its own."""
        attack = self.parts[number]
        share = call.eps / self.threat.eps if self.threat.eps else 1.0
        eps = share * attack.threat.eps + 0 * call.eps
        return attack._perturb(net, x, target, replace(call, eps=eps, rng=call.rng.fork(number)))
