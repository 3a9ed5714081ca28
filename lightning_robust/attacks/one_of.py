"""One of several attacks, drawn for each batch: stochastic adversarial training."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.call import Call
from lightning_robust.attacks.several_attacks import SeveralAttacks
from lightning_robust.types import Net


class OneOf(SeveralAttacks):
    """Draws one of several attacks in each call, for all samples of the batch on all ranks, and runs it.

    In AT it is stochastic adversarial training (SAT) against several norms, at the price of one; TRADES, MART and the
    like take it as well.

    Args:
        attacks: the attacks by name, which may be at several norms.
        weights: how often each is drawn, in proportion, >= 0 and not all 0; by default all alike.

    Raises:
        ValueError: for no attacks, several boxes, or weights out of range or of another number.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks.pgd import PGD
        >>> from lightning_robust.threat import Threat
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> attack = OneOf({"linf": PGD(Threat("linf", "8/255")), "l2": PGD(Threat("l2", 0.5))}, weights=[0, 1])
        >>> bool((attack(net, x, y) - x).flatten(1).norm(dim=1).max() <= 0.5 + 1e-6)
        True

    Paper: Madaan, Shin & Hwang 2021 (arXiv 2006.12135), section 4.2.
    """

    def __init__(self, attacks: Mapping[str, Attack], weights: Sequence[float] | None = None) -> None:
        super().__init__(attacks)
        given = [1.0] * len(self.attacks) if weights is None else list(weights)
        if len(given) != len(self.attacks) or min(given) < 0 or not sum(given) > 0:
            raise ValueError(f"OneOf needs {len(self.attacks)} weights >= 0, one an attack and not all 0, got {given}.")
        self.weights = weights

    def _perturb(self, net: Net, x: Tensor, target: Tensor, call: Call) -> Tensor:
        """Run the attack that the batch's common random number draws."""
        return self._part(
            drawn(self.weights or [1.0] * len(self.parts), call.rng.shared_uniform()), net, x, target, call
        )


def drawn(weights: Sequence[float], uniform: float) -> int:
    """Return which of several a uniform number in [0, 1) draws, in proportion to their weights; all alike if all are 0.

    Example:
        >>> drawn([1.0, 0.0, 3.0], 0.2), drawn([1.0, 0.0, 3.0], 0.3), drawn([0.0, 0.0], 0.6)
        (0, 2, 1)
    """
    if not sum(weights) > 0:
        return int(uniform * len(weights))
    left = uniform * sum(weights)
    for number, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return number
    return max(number for number, weight in enumerate(weights) if weight > 0)  # where rounding left a rest
