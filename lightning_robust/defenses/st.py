"""Squeeze training (ST): it closes the gap between adversarial and collaborative examples."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_robust.attacks.squeeze import DISCREPANCIES, Discrepancy, Extremes, squeeze
from lightning_robust.defenses.margin_defense import MarginDefense
from lightning_robust.defenses.own_moves import as_pgd, plain_pgd
from lightning_robust.losses import cross_entropy
from lightning_robust.runtime.modes import AttackBN, frozen_running_stats
from lightning_robust.types import Batch, Losses, Views


class ST(MarginDefense):
    """Trains on `CE(f(x), y) + beta D(f(x_up), f(x_low))`.

    Among the clean image, the adversarial and the collaborative example, x_up is the one with the highest and x_low the
    one with the lowest cross-entropy. With a reweighting w, the discrepancy of each sample is multiplied by its weight.
    `train/gap` logs the cross-entropy of the adversarial minus that of the collaborative example.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        beta: weight of the discrepancy, >= 0.
        discrepancy: D: "symmetric_kl", "js" or "l2", of the softmax outputs.
        keep_roles: see `lightning_robust.attacks.functional.squeeze`; True reproduces the authors' code exactly.
        attack_bn: see `Defense`; "batch", as the authors', by default.
        kwargs: settings of `MarginDefense`; of the attack, threat, steps, step size and start are used.

    Raises:
        ValueError: for a negative beta, an unknown discrepancy, or an attack with settings that are not used.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> from lightning_robust.types import Batch
        >>> model = ST(SmallConvNet(in_channels=1, num_classes=10), attack=PGD(steps=2))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Li et al. 2023 (arXiv 2205.11156), equation 6 and algorithm 1.
    Reference: qizhangli/ST-AT@82fc69f, which implements the symmetric KL alone; "js" and "l2" follow the paper's names.
    Deviates: images follow their roles always (`keep_roles=False`): on the recorded step of tests/golden a quarter of
    the pixels, 1.2 % of the loss and 8 % of the gradient differ; `keep_roles=True` gives the record. The random starts
    are clamped into the box.
    """

    def __init__(
        self,
        net: nn.Module,
        beta: float = 6.0,
        discrepancy: Discrepancy = "symmetric_kl",
        keep_roles: bool = False,
        attack_bn: AttackBN = "batch",
        **kwargs: Any,
    ) -> None:
        super().__init__(net, attack_bn=attack_bn, **kwargs)
        if beta < 0 or discrepancy not in DISCREPANCIES:
            raise ValueError(
                f"ST needs beta >= 0 and a discrepancy among {', '.join(DISCREPANCIES)}, got {beta}, {discrepancy!r}."
            )
        plain_pgd("ST", self.attack, "threat, steps, step_size and start")
        self.beta = beta
        self.discrepancy = discrepancy
        self.keep_roles = keep_roles

    def generate(self, batch: Batch) -> Views:
        """Craft the adversarial and the collaborative example that widen the gap."""
        attack = as_pgd("ST", self.attack)
        return Views(
            *squeeze(
                self.net,
                batch.x,
                batch.y,
                attack.threat,
                steps=attack.steps,
                step_size=attack.step_size or 2.5 * attack.threat.eps / max(attack.steps, 1),
                discrepancy=self.discrepancy,
                start=attack.start,
                keep_roles=self.keep_roles,
                bn=self.attack_bn,
                rng=self.rng(batch),
            )
        )

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return `CE(f(x), y) + beta D(f(x_up), f(x_low))` of each sample.

        Collaborative examples do not enter the running statistics of batch norms.
        """
        assert views.col is not None
        with frozen_running_stats(self.net):
            logits_col = self.logits(views.col)
        logits = self.logits(batch.x)
        logits_adv = self.logits(views.adv)
        stacked: Tensor = torch.stack([logits, logits_col, logits_adv])
        up, low = Extremes.of(stacked, batch.y).pick(stacked)
        natural = self.cross_entropy(logits, batch.y)
        squeezed = self.weigh(DISCREPANCIES[self.discrepancy](up, low), logits_adv, batch.y)
        gap = (cross_entropy(logits_adv, batch.y) - cross_entropy(logits_col, batch.y)).detach()
        parts = {"natural": natural, "squeeze": squeezed, "gap": gap}
        return Losses(natural + self.beta * squeezed, parts, logits_adv)
