"""What the evaluation of one data loader has counted so far."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from lightning import Trainer
from torch import Tensor

from lightning_robust.attacks.base import Attack
from lightning_robust.callbacks.figures import Examples
from lightning_robust.metrics import PerturbationNorm, RobustAccuracy


class Tally:
    """Counts, sizes of the perturbations, seconds, and the first examples of each attack.

    Args:
        attacks: the attacks by name.
        device: where the counts live.
    """

    def __init__(self, attacks: Mapping[str, Attack], device: torch.device) -> None:
        self.attacks = attacks
        self.accuracy = RobustAccuracy(list(attacks)).to(device)
        self.sizes = {name: PerturbationNorm(attack.threat.norm).to(device) for name, attack in attacks.items()}
        self.seconds = dict.fromkeys(["clean", *attacks], 0.0)
        self.examples: dict[str, Examples] = {}
        self._seen = 0

    def advance(self, trainer: Trainer, b: int) -> Tensor:
        """Dataset positions of the next batch, dealt to the ranks in turn as every distributed sampler does."""
        first, self._seen = self._seen, self._seen + b
        device = self.accuracy.device
        return torch.arange(first, first + b, device=device) * trainer.world_size + trainer.global_rank

    @contextmanager
    def timing(self, name: str, device: torch.device) -> Iterator[None]:
        """Add the time spent inside under this name."""
        start = time.perf_counter()
        yield
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.seconds[name] += time.perf_counter() - start
