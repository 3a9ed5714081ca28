"""SCORE: TRADES with squared errors of probabilities, the small ones clipped, in place of cross-entropy and KL."""

from typing import Any, Literal

import torch.nn.functional as F
from torch import nn

from lightning_robust.defenses.base import Defense
from lightning_robust.defenses.own_moves import refuse_clean_start
from lightning_robust.losses import brier_score, squared_l2
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.types import Batch, Losses, Views


class SCORE(Defense):
    """Trains on `||p - y||^2 + beta relu(||p' - p||^2 - clip)`, where p and p' are the softmax at x and at x'.

    The attack maximises `||p' - p||^2`. `SCOREAT` is the form that trains on adversarial examples alone. With a
    reweighting w, the robust term of each sample is multiplied by its weight.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        beta: weight of the robust term, >= 0.
        clip: squared error below which a sample no longer counts, >= 0. The reference's `clip_loss` c, the probability
            that may be missing at the label, is `clip = c^2 k / (k - 1)` with k classes.
        clipped: what is clipped: "robust", the robust term, or "all", `relu(||p - y||^2 + beta ||p' - p||^2 - clip)`.
        adversarial_first: forwards the adversarial batch before the clean one, as the reference does without generated
            images; only running batch-norm statistics notice.
        kwargs: settings of `Defense`. The reference's label smoothing s, without which the published nets are trained,
            is `label_smoothing = s k / (k - 1)`.

    Raises:
        ValueError: for a negative beta or clip, another `clipped`, or an attack that starts at the clean image, where
            the robust term has no gradient.

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
        **kwargs: Any,
    ) -> None:
        super().__init__(net, **kwargs)
        if beta < 0 or clip < 0 or clipped not in ("robust", "all"):
            raise ValueError(
                f"SCORE needs beta >= 0, clip >= 0 and clipped 'robust' or 'all', got {beta}, {clip} and {clipped!r}."
            )
        refuse_clean_start("||p' - p||^2", self.attack)
        self.beta = beta
        self.clip = clip
        self.clipped = clipped
        self.adversarial_first = adversarial_first

    def generate(self, batch: Batch) -> Views:
        """Craft examples that maximise `||p' - p||^2`."""
        clean = logits_no_grad(self.net, batch.x, self.attack_bn)
        return Views(self.craft(batch, clean, objective=squared_l2))

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return `||p - y||^2 + beta relu(||p' - p||^2 - clip)` of each sample, or all of it clipped."""
        first = self.logits(views.adv if self.adversarial_first else batch.x)
        second = self.logits(batch.x if self.adversarial_first else views.adv)
        logits, logits_adv = (second, first) if self.adversarial_first else (first, second)
        natural = brier_score(logits, batch.y)
        robust = squared_l2(logits_adv, logits)
        if self.clipped == "robust":
            robust = F.relu(robust - self.clip)
        robust = self.weigh(robust, logits_adv, batch.y)
        total = natural + self.beta * robust
        if self.clipped == "all":
            total = F.relu(total - self.clip)
        return Losses(total, {"natural": natural, "robust": robust}, logits_adv)
