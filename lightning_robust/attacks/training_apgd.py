"""APGD with a few steps as a training attack."""

from typing import Any

import torch
from torch import Tensor

from lightning_robust.attacks.apgd import APGD
from lightning_robust.attacks.apgd_ascent import Given, Sparse
from lightning_robust.attacks.call import Call
from lightning_robust.attacks.objectives import Loss
from lightning_robust.attacks.start import Start, check_start, starting_point
from lightning_robust.threat import Threat
from lightning_robust.types import Net, Objective

L1_SHARE = 0.05
"""Share of the pixels that the first step in l1 moves."""


class TrainingAPGD(APGD):
    """Runs APGD for a few steps, from the clean image by default, and returns the points of the highest objective.

    All samples take every step, whereas `APGD` stops a sample once it is misclassified. In l1 all steps are taken in
    the ball itself, the first along 5 % of the pixels, where `APGD` begins in larger balls. The objective may compare
    with other targets than labels, as TRADES' divergence from the clean output does.

    Args:
        threat: the perturbations allowed.
        steps: gradient steps, >= 1.
        start: "none" begins at the image, "uniform" in the ball, "normal" at 0.001 N(0, 1) around the image.
        loss: the objective where the caller passes none: "ce", "margin", "dlr", "label_logit" or
            "probability_margin".
        rho: share of the steps that must raise the objective, in (0, 1).

    Raises:
        ValueError: for a setting out of its range, or an unknown start or loss.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> x_adv = TrainingAPGD(Threat("linf", "4/255"), steps=2)(net, x, y)
        >>> loss = torch.nn.functional.cross_entropy
        >>> bool(loss(net(x_adv), y) >= loss(net(x), y))
        True

    Paper: Singh, Croce & Hein 2023 (arXiv 2303.01870), which trains ConvNeXts and ViTs with two steps.
    Reference: nmndeep/revisiting-at@d7166c0 and, also for l2 and l1, fra31/robust-finetuning@0201a49, which compare the
    objective after the first step with 0; the examples are theirs to rounding.
    """

    uses = (*APGD.uses, "reference")
    _from_zero = True

    def __init__(
        self,
        threat: Threat | None = None,
        steps: int = 2,
        start: Start = "none",
        loss: Loss = "ce",
        rho: float = 0.75,
    ) -> None:
        super().__init__(threat, steps, loss, rho=rho)
        check_start(start)
        self.start = start

    def _perturb(self, net: Net, x: Tensor, target: Tensor, call: Call) -> Tensor:
        """Ascend once, and return the highest points."""
        begin = starting_point(x, self.threat, self.start, call.eps, call.rng) if call.start is None else call.start
        row = torch.arange(len(x), device=x.device)
        given = Given(row, torch.zeros_like(row), x, target, torch.zeros_like(row), call.eps)
        return self._run(net, given, begin, call.objective, None)

    def _run(self, net: Net, given: Given, x_adv: Tensor, objective: Objective | None, found: Any) -> Tensor:
        """Ascend once from `x_adv`, for l1 in the ball itself, and return the best points."""
        if self.threat.norm != "l1":
            return super()._run(net, given, x_adv, objective, found)
        sparse = Sparse.begin(given, x_adv)
        sparse.share = torch.full_like(sparse.share, L1_SHARE)
        sparse.changed = torch.full_like(sparse.changed, x_adv[0].numel())
        return self._ascend(net, sparse, objective, self.steps, found)
