"""SCORE's form of adversarial training: the squared error of the probabilities of adversarial examples, clipped."""

from typing import Any

import torch.nn.functional as F
from torch import nn

from lightning_robust.defenses.base import Defense
from lightning_robust.losses import brier_score
from lightning_robust.types import Batch, Losses, Views


class SCOREAT(Defense):
    """Trains on `relu(||p' - y||^2 - clip)`, where p' is the softmax at x', which maximises `||p' - y||^2`.

    With a reweighting w, the loss of each sample is multiplied by its weight.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        clip: squared error below which a sample no longer counts, >= 0, see `SCORE`.
        kwargs: settings of `Defense`; label smoothing as in `SCORE`.

    Raises:
        ValueError: for a negative clip.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> from lightning_robust.types import Batch
        >>> model = SCOREAT(SmallConvNet(in_channels=1, num_classes=10), attack=PGD(steps=2))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Pang et al. 2022 (arXiv 2202.10103), section 5.
    Reference: P2333/SCORE@e82f442 (without_DDPM), with `attack_bn="train"`.
    Deviates: none known; given the start, the step is the reference's to rounding.
    """

    def __init__(self, net: nn.Module, clip: float = 0.0, **kwargs: Any) -> None:
        super().__init__(net, **kwargs)
        if clip < 0:
            raise ValueError(f"SCOREAT needs clip >= 0, got {clip}.")
        self.clip = clip

    def generate(self, batch: Batch) -> Views:
        """Craft examples that maximise `||p' - y||^2`."""
        return Views(self.craft(batch, objective=brier_score))

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return `relu(||p' - y||^2 - clip)` of each sample, times its weight if there is a reweighting."""
        logits = self.logits(views.adv)
        clipped = F.relu(brier_score(logits, batch.y) - self.clip)
        return Losses(self.weigh(clipped, logits, batch.y), {}, logits)
