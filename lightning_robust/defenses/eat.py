"""Extreme-norm adversarial training (E-AT): each batch trains against one norm, the less robust the more often."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_robust.attacks.one_of import drawn
from lightning_robust.defenses.at import AT
from lightning_robust.losses import cross_entropy
from lightning_robust.runtime.ranks import world_size
from lightning_robust.types import Batch, Views
from lightning_robust.utils.labels import hard_labels


class EAT(AT):
    """Trains on `CE(f(x'), y)`, with x' at one of several norms, drawn with probability proportional to its error.

    The error of a norm is 1 minus the share of samples, of all that were attacked in it since the start of training,
    that were classified correctly at every point of the attack. Until each norm was drawn once, and where no norm has
    an error, all are equally probable. The draw is the same on all ranks, whose samples count together; checkpoints
    store the counts under "robust_counts". The norms are those of the training attack's parts: with linf and l1, whose
    balls have the union's hull, robustness in l2 comes along.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        kwargs: settings of `MarginDefense`; the attack is `OneOf`, `WorstOf` or the like, in the reference of
            `TrainingAPGD`.

    Raises:
        ValueError: in a step, for attacks that leave samples out on the way, such as those with restarts.

    Example:
        >>> from lightning_robust.attacks import OneOf, TrainingAPGD
        >>> from lightning_robust.models import SmallConvNet
        >>> from lightning_robust.threat import Threat
        >>> parts = {norm: TrainingAPGD(Threat(norm, eps)) for norm, eps in {"linf": 0.1, "l1": 3.0}.items()}
        >>> model = EAT(SmallConvNet(in_channels=1, num_classes=10), attack=OneOf(parts))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])
        >>> [seen for right, seen in model.robust_counts] in ([4, 0], [0, 4])
        True

    Paper: Croce & Hein 2022 (arXiv 2105.12508), section 4.
    Reference: fra31/robust-finetuning@0201a49, whose steps these are to rounding.
    Deviates: the reference cannot go on once no norm has an error; from scratch, it trains batch norms and biases at a
    learning rate of 1.
    """

    def __init__(self, net: nn.Module, **kwargs: Any) -> None:
        super().__init__(net, **kwargs)
        self.robust_counts = [[0, 0] for _ in self.attack.parts]

    @property
    def weights(self) -> list[float]:
        """What the probability of each norm is proportional to: its error so far."""
        if not all(seen for _, seen in self.robust_counts):
            return [0.5] * len(self.robust_counts)
        return [1 - right / seen for right, seen in self.robust_counts]

    def generate(self, batch: Batch) -> Views:
        """Draw a norm, craft the examples in it, and count the samples that are robust in it."""
        rng = self.rng(batch)
        number = drawn(self.weights, rng.shared_uniform())
        y, robust = hard_labels(batch.y), torch.ones(len(batch.x), dtype=torch.bool, device=batch.x.device)

        def objective(logits: Tensor, target: Tensor) -> Tensor:
            if len(logits) != len(robust):
                raise ValueError(
                    "EAT counts the samples that are right at all points of the attack, so that it needs one that "
                    "takes all samples along: set it to TrainingAPGD, or to PGD without restarts."
                )
            robust.logical_and_(logits.detach().argmax(1) == y)
            return cross_entropy(logits, target)

        x_adv = self.craft(batch, attack=self.attack.parts[number], objective=objective, rng=rng.fork(number))
        counted = torch.stack([robust.sum(), torch.full_like(robust.sum(), len(robust))])
        if world_size() > 1:
            torch.distributed.all_reduce(counted)
        self.robust_counts[number] = [a + b for a, b in zip(self.robust_counts[number], counted.tolist(), strict=True)]
        return Views(x_adv)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the counts of each norm."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["robust_counts"] = [list(each) for each in self.robust_counts]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counts, if they are of as many norms."""
        super().on_load_checkpoint(checkpoint)
        counts = checkpoint.get("robust_counts", [])
        if len(counts) == len(self.robust_counts):
            self.robust_counts = [list(each) for each in counts]
