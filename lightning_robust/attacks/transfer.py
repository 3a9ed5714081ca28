"""Attacks crafted on one net and tried on another."""

from torch import Tensor, nn

from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.call import Call
from lightning_robust.threat import Threat
from lightning_robust.types import Net


class Transfer(Attack):
    """Crafts examples on a surrogate net and hands them to the net under attack, of which it sees nothing.

    Args:
        attack: crafts the examples, such as `PGD`. AutoAttack and attacks that look for the nearest example stop where
            the surrogate errs, and leave what it misclassifies as it is, so their examples transfer less.
        surrogate: the net that they are crafted on, images to logits; it moves to the images' device.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> surrogate, net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1])
        >>> transfer = Transfer(PGD(Threat("linf", 0.1), steps=5), surrogate)
        >>> bool((transfer(net, x, y) - x).abs().max() <= 0.1 + 1e-6)
        True

    Paper: Papernot et al. 2016, "Transferability in machine learning" (arXiv 1605.07277).
    """

    gradients = False  # of the net under attack

    def __init__(self, attack: Attack, surrogate: nn.Module) -> None:
        self.norms = attack.norms  # type: ignore[misc]
        super().__init__(attack.threat)
        self._threat_given = attack.threat_given
        self.attack = attack
        self.surrogate = surrogate
        self.within_radius = attack.within_radius

    def with_threat(self, threat: Threat) -> "Transfer":
        """Return the same attack on the same surrogate under another threat."""
        return Transfer(self.attack.with_threat(threat), self.surrogate)

    def fitting(self, batch_size: int) -> int:
        """Return how many images it may take at a time: the surrogate does take gradients."""
        return self.attack.fitting(batch_size)

    def _perturb(self, net: Net, x: Tensor, target: Tensor, call: Call) -> Tensor:
        surrogate = self.surrogate.to(x.device)
        return self.attack(surrogate, x, target, eps=call.eps.flatten(), rng=call.rng)
