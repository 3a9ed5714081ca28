"""Collaborative examples: images changed so that the net is more certain of the label."""

from lightning_robust.attacks.pgd import PGD
from lightning_robust.attacks.start import Start
from lightning_robust.threat import Threat


class Collaborative(PGD):
    """Crafts examples on which the loss is lower than on the clean image, by PGD that descends the cross-entropy.

    Args:
        threat: the perturbations allowed.
        steps: gradient steps, >= 0.
        step_size: in the units of the radius; by default 2.5 eps / steps.
        start: "uniform" in the ball, "normal" (0.001 N(0, 1)) or "none".
        momentum: decay of the accumulated gradient, >= 0.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> loss = torch.nn.functional.cross_entropy
        >>> bool(loss(net(Collaborative()(net, x, y)), y) < loss(net(x), y))
        True

    Paper: squeeze training (arXiv 2205.11156), section 3: the more robust a net, the less there is to gain.
    """

    def __init__(
        self,
        threat: Threat | None = None,
        steps: int = 10,
        step_size: float | str | None = None,
        start: Start = "uniform",
        momentum: float = 0.0,
    ) -> None:
        super().__init__(threat, steps, step_size, start, momentum=momentum, targeted=True)
