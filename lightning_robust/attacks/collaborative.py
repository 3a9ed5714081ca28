"""Collaborative examples: images changed so that the net is more certain of the label."""

from lightning_robust.attacks.pgd import PGD
from lightning_robust.attacks.start import Start
from lightning_robust.threat import Threat


class Collaborative(PGD):
    """Examples on which the loss is lower than on the clean image: PGD that descends the cross-entropy of the label.

    Args: see `PGD`.

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
