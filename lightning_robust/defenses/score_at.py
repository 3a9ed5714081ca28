"""SCORE's form of adversarial training: a distance of adversarial probabilities from the label, clipped."""

from typing import Any

import torch.nn.functional as F
from torch import nn

from lightning_robust.defenses.base import Defense
from lightning_robust.parts.distances import Distance, DistanceName, logits_of_labels
from lightning_robust.types import Batch, Losses, Views


class SCOREAT(Defense):
    """Trains on `relu(D(p', y) - clip)`, where p' is the softmax at x', which maximises `D(p', y)`.

    D is the squared l2 distance or another `Distance`. With a reweighting w, the loss of each sample is multiplied by
    its weight.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        clip: distance below which a sample no longer counts, >= 0, see `SCORE`.
        distance: D, see `SCORE`.
        kwargs: settings of `Defense`; label smoothing as in `SCORE`.

    Raises:
        ValueError: for a negative clip, another `distance`, or "reverse_kl_root", which is infinite for the labels as
            the attack sees them, without smoothing.

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

    def __init__(self, net: nn.Module, clip: float = 0.0, distance: DistanceName = "l2_squared", **kwargs: Any) -> None:
        super().__init__(net, **kwargs)
        if clip < 0:
            raise ValueError(f"SCOREAT needs clip >= 0, got {clip}.")
        if distance == "reverse_kl_root":
            raise ValueError(
                "reverse_kl_root is infinite for labels that give a class no probability, as the attack sees them: "
                "take another distance, or SCORE with label_smoothing."
            )
        self.clip = clip
        self.distance = Distance(distance)

    def generate(self, batch: Batch) -> Views:
        """Craft examples that maximise `D(p', y)`."""
        return Views(self.craft(batch, objective=self.distance.ascended_of_labels))

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return `relu(D(p', y) - clip)` of each sample, times its weight if there is a reweighting."""
        logits = self.logits(views.adv)
        clipped = F.relu(self.distance(logits, logits_of_labels(batch.y, logits)) - self.clip)
        return Losses(self.weigh(clipped, logits, batch.y), {}, logits)
