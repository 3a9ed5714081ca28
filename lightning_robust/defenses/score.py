"""SCORE: TRADES with a distance of probabilities, its small values clipped, in place of cross-entropy and KL."""

from typing import Any, Literal

import torch.nn.functional as F
from torch import nn

from lightning_robust.defenses.base import Defense
from lightning_robust.defenses.own_moves import refuse_clean_start
from lightning_robust.parts.distances import Distance, DistanceName, logits_of_labels
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.types import Batch, Losses, Views


class SCORE(Defense):
    """Trains on `D(p, y) + beta relu(D(p', p) - clip)`, where p and p' are the softmax at x and at x'.

    D is the squared l2 distance or another `Distance`. The attack maximises `D(p', p)`. `SCOREAT` is the form that
    trains on adversarial examples alone. With a reweighting w, the robust term of each sample is multiplied by its
    weight.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        beta: weight of the robust term, >= 0.
        clip: distance below which a sample no longer counts, >= 0. The reference's `clip_loss` c, the probability that
            may be missing at the label, is the distance of the probabilities (1 - c, c / (k - 1), ...) from the label:
            of "l2_squared" `clip = c^2 k / (k - 1)` with k classes.
        clipped: what is clipped: "robust", the robust term, or "all", `relu(D(p, y) + beta D(p', p) - clip)`.
        distance: D: "l2_squared", "l2", "l1", "l1_squared", "kl", "kl_root", "reverse_kl_root", "js" or "js_root", see
            `Distance`. The published nets are trained with the first.
        adversarial_first: forwards the adversarial batch before the clean one, as the reference does without generated
            images; only running batch-norm statistics notice.
        kwargs: settings of `Defense`. The reference's label smoothing s, without which the published nets are trained,
            is `label_smoothing = s k / (k - 1)`.

    Raises:
        ValueError: for a negative beta or clip, another `clipped` or `distance`, "reverse_kl_root" without label
            smoothing, or an attack that starts at the clean image, where the robust term has no gradient.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> from lightning_robust.types import Batch
        >>> model = SCORE(SmallConvNet(in_channels=1, num_classes=10), attack=PGD(steps=2))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Pang et al. 2022 (arXiv 2202.10103), "Robustness and accuracy could be reconcilable by (proper) definition",
    section 5.
    Reference: P2333/SCORE@e82f442: train-wa.py, with `attack_bn="batch"`; without_DDPM, with
    `PGD(start="normal")`, `clipped="all"` (without `--not_clip_clean`) and `adversarial_first=True`.
    Deviates: none known; given the start, the step is the reference's to rounding.
    """

    def __init__(
        self,
        net: nn.Module,
        beta: float = 3.0,
        clip: float = 0.0,
        clipped: Literal["robust", "all"] = "robust",
        adversarial_first: bool = False,
        distance: DistanceName = "l2_squared",
        **kwargs: Any,
    ) -> None:
        super().__init__(net, **kwargs)
        if beta < 0 or clip < 0 or clipped not in ("robust", "all"):
            raise ValueError(
                f"SCORE needs beta >= 0, clip >= 0 and clipped 'robust' or 'all', got {beta}, {clip} and {clipped!r}."
            )
        if distance == "reverse_kl_root" and not self.label_smoothing:
            raise ValueError(
                "reverse_kl_root is infinite for labels that give a class no probability: set label_smoothing, or take "
                "another distance."
            )
        refuse_clean_start("The distance of p' from p", self.attack)
        self.beta = beta
        self.clip = clip
        self.clipped = clipped
        self.adversarial_first = adversarial_first
        self.distance = Distance(distance)

    def generate(self, batch: Batch) -> Views:
        """Craft examples that maximise `D(p', p)`."""
        clean = logits_no_grad(self.net, batch.x, self.attack_bn)
        return Views(self.craft(batch, clean, objective=self.distance.ascended))

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return `D(p, y) + beta relu(D(p', p) - clip)` of each sample, or all of it clipped."""
        first = self.logits(views.adv if self.adversarial_first else batch.x)
        second = self.logits(batch.x if self.adversarial_first else views.adv)
        logits, logits_adv = (second, first) if self.adversarial_first else (first, second)
        natural = self.distance(logits, logits_of_labels(batch.y, logits))
        robust = self.distance(logits_adv, logits)
        if self.clipped == "robust":
            robust = F.relu(robust - self.clip)
        robust = self.weigh(robust, logits_adv, batch.y)
        total = natural + self.beta * robust
        if self.clipped == "all":
            total = F.relu(total - self.clip)
        return Losses(total, {"natural": natural, "robust": robust}, logits_adv)
