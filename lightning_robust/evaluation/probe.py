"""A net and the samples on which short attacks probe it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.progress import room_for
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from lightning_robust.types import Net


@dataclass
class Probe:
    """Holds a net and the samples on which attacks probe it; every attack starts from the same random numbers.

    Args:
        net: maps images to logits.
        x: clean images [b ...].
        y: labels [b].
        threat: the perturbations allowed.
        rng: random numbers of each sample.
        batch_size: how many samples are attacked at a time.
    """

    net: Net
    x: Tensor
    y: Tensor
    threat: Threat
    rng: SampleRNG
    batch_size: int

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, which: Tensor) -> "Probe":
        """Select samples by a mask or by positions."""
        return replace(self, x=self.x[which], y=self.y[which], rng=self.rng[which])

    @property
    def batches(self) -> list["Probe"]:
        """Split the samples into batches."""
        return [self[rows] for rows in torch.split(torch.arange(len(self), device=self.x.device), self.batch_size)]

    @property
    def logits(self) -> Tensor:
        """Compute the logits [b k] on the clean images."""
        return torch.cat([logits_no_grad(self.net, part.x) for part in self.batches])

    def moved(self, attack: Attack) -> "Probe":
        """Replace the images by the examples that an attack makes."""
        with room_for(self.batch_size):
            examples = [attack(part.net, part.x, part.y, rng=part.rng) for part in self.batches if len(part)]
        return replace(self, x=torch.cat(examples)) if examples else self

    def attacked(self, attack: Attack) -> Tensor:
        """Compute the logits [b k] on the examples that an attack makes."""
        return self.moved(attack).logits

    def standing(self, attack: Attack) -> Tensor:
        """Mark the samples [b] that withstand an attack."""
        return self.attacked(attack).argmax(1) == self.y if len(self) else self.y == self.y
