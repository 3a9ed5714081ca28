"""Training against several norms at once, by the mean of their losses: AVG."""

import torch
from torch import Tensor

from lightning_robust.attacks.base import Attack
from lightning_robust.defenses.margin_defense import MarginDefense
from lightning_robust.types import Batch, Losses, Views


class AVG(MarginDefense):
    """Trains on `1/m sum_i CE(f(x'_i), y)`, where x'_i is the example that the i-th of m attacks finds.

    The attacks are the parts of the training attack, `WorstOf` for example, at norms of their own. The logged accuracy
    under attack is that on the example of each sample with the highest loss. With a reweighting, the cross-entropy of
    each example is multiplied by its weight; regularizers see the first attack's examples.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        kwargs: settings of `MarginDefense`.

    Example:
        >>> from lightning_robust.attacks import PGD, WorstOf
        >>> from lightning_robust.models import SmallConvNet
        >>> from lightning_robust.threat import Threat
        >>> attack = WorstOf({"linf": PGD(Threat("linf", 0.1), steps=2), "l2": PGD(Threat("l2", 0.5), steps=2)})
        >>> model = AVG(SmallConvNet(in_channels=1, num_classes=10), attack=attack)
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Tramer & Boneh 2019 (arXiv 1904.13000), the "avg" strategy of section 3.
    Reference: locuslab/robust_union@ef34194 (triple_adv).
    Deviates: the reference takes an optimizer step for each norm, one after the other, each against the net that the
    step before has left: on the recorded batch of tests/golden (rate 0.05), the losses of the second and third norm are
    2 % and 6 % smaller there. One after the other, its steps are those of this class's attacks to rounding.
    """

    @property
    def _parts(self) -> dict[str, Attack]:
        return {str(number): part for number, part in enumerate(self.attack.parts)}

    def generate(self, batch: Batch) -> Views:
        """Craft the examples of each attack."""
        first, *others = (self.craft(batch, attack=part) for part in self._parts.values())
        return Views(first, more={str(number): x_adv for number, x_adv in enumerate(others, 1)})

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return the mean over the attacks of `CE(f(x'_i), y)` of each sample."""
        examples = [views.adv, *(views.more[name] for name in list(self._parts)[1:])]
        logits: list[Tensor] = [self.logits(x_adv) for x_adv in examples]
        losses = torch.stack([self.weigh(self.cross_entropy(z, batch.y), z, batch.y) for z in logits])
        worst = losses.argmax(0)
        chosen = torch.stack(logits)[worst, torch.arange(len(worst), device=worst.device)]
        return Losses(losses.mean(0), {}, chosen)
