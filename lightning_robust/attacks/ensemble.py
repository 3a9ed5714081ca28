"""Several attacks in turn, each on the samples that the ones before it did not break."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.call import Call
from lightning_robust.attacks.pad_small_batches import PadSmallBatches
from lightning_robust.attacks.progress import room_for
from lightning_robust.attacks.success import misclassified
from lightning_robust.runtime.precision import full_precision
from lightning_robust.threat import Norm, Threat
from lightning_robust.types import Net


class Ensemble(Attack):
    """Finds the worst case of several attacks: each runs only on what is still classified correctly.

    Where an attack averages over several passes (`eot`), for nets that are random, each runs on what is classified
    correctly in any of as many passes, and the example is kept on which the net is right least often.

    Args:
        attacks: the attacks by name, in order; those whose threat is left out take that of the others.
        batch_size: images at a time, at most (four times as many where no gradient is taken); the survivors of all
            batches fill the next stage's, and so do several targets or restarts of a sample. By default as many as
            there are samples.

    Raises:
        ValueError: for no attacks, different threat models, or a batch size < 1.

    Example:
        >>> from lightning_robust.attacks import PGD, Square
        >>> ensemble = Ensemble({"pgd": PGD(Threat("linf", 0.15)), "square": Square()})
        >>> [str(attack.threat) for attack in ensemble.stages.values()]
        ['linf 0.15', 'linf 0.15']
    """

    norms: ClassVar[Sequence[Norm]] = ("linf", "l2", "l1", "l0")

    def __init__(self, attacks: Mapping[str, Attack], batch_size: int | None = None) -> None:
        threats = list(dict.fromkeys(attack.threat for attack in attacks.values() if attack.threat_given))
        if not threats:  # the first default that all of them work in
            defaults = dict.fromkeys(attack.threat for attack in attacks.values())
            threats = [t for t in defaults if all(t.norm in attack.norms for attack in attacks.values())][:1]
            threats = threats or list(defaults)
        if len(threats) != 1:
            raise ValueError(
                f"An ensemble needs attacks of one threat model, got {len(threats)}: "
                f"{', '.join(map(str, threats)) or 'no attacks'}."
            )
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}.")
        super().__init__(threats[0])
        self._threat_given = any(attack.threat_given for attack in attacks.values())
        self.attacks = {
            name: attack if attack.threat == self.threat else attack.with_threat(self.threat)
            for name, attack in attacks.items()
        }
        self.batch_size = batch_size

    @property
    def uses(self) -> frozenset[str]:  # type: ignore[override]
        """The optional arguments that all of its attacks use; each sees other samples, so none is watched."""
        return frozenset.intersection(*(frozenset(attack.uses) for attack in self.attacks.values())) - {"watch"}

    def with_threat(self, threat: Threat) -> "Ensemble":
        """Return the same ensemble, each of its attacks under another threat."""
        other = super().with_threat(threat)
        other.attacks = {name: attack.with_threat(threat) for name, attack in self.attacks.items()}
        return other

    @property
    def stages(self) -> dict[str, Attack]:
        """The attacks by name; an ensemble within the ensemble is replaced by its own."""
        flat: dict[str, Attack] = {}
        for name, attack in self.attacks.items():
            flat.update({f"{name}-{inner}": stage for inner, stage in attack.stages.items()} or {name: attack})
        return flat

    def _perturb(self, net: Net, x: Tensor, target: Tensor, call: Call) -> Tensor:
        """Run each stage on what stands, and keep the example of each sample on which the net is right least often."""
        size = self.batch_size or max(len(x), 1)
        net = PadSmallBatches(net, self.batch_size)
        x_adv = x.clone()
        with room_for(size):
            passes = max(getattr(attack, "eot", 1) for attack in self.stages.values())
            right = _share_right(net, x, target, size, passes)
            for number, attack in enumerate(self.stages.values()):
                left = torch.nonzero(right)[:, 0]
                for some in torch.split(left, attack.fitting(size)) if len(left) else ():
                    part = replace(call[some], rng=call.rng[some].fork(number))
                    found = attack._perturb(net, x[some], target[some], part)
                    share = _share_right(net, found, target[some], size, passes)
                    better = share < right[some]
                    x_adv[some[better]] = found[better]
                    right[some[better]] = share[better]
        return x_adv


@torch.no_grad()
def _share_right(net: Net, x: Tensor, y: Tensor, size: int, passes: int) -> Tensor:
    """Return the share of so many passes, in fp32, in which the net is right on each sample [b]."""
    with full_precision(x):
        wrong = [
            torch.stack([misclassified(net, some, net(some), label) for _ in range(passes)]).double().mean(0)
            for some, label in zip(torch.split(x, size), torch.split(y, size), strict=True)
        ]
    return 1 - torch.cat(wrong)
