"""Free adversarial training: one backward pass trains the net and moves the perturbation."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_robust.defenses.accumulation import accumulates
from lightning_robust.defenses.at import AT
from lightning_robust.defenses.own_moves import as_pgd, plain_pgd
from lightning_robust.runtime.gradients import leaf_copy
from lightning_robust.runtime.ranks import world_size
from lightning_robust.types import Batch, Views


class FreeAT(AT):
    """Trains on `CE(f(x + d), y)` with `replays` optimizer steps a batch, whose gradients also move the noise d.

        d <- project(d + step_size * steepest(gradient)) into the ball around 0

    No attack runs before a step, so `replays` steps cost what as many steps of standard training do. The noise belongs
    to the place in the batch, not to the sample, and is kept from batch to batch and epoch to epoch; it starts at 0,
    and starts over when the images change their size. Checkpoints store it under "noise" [ranks b c h w]; a device for
    which none is stored starts with another device's.

    A schedule that counts steps counts batches here, and so do Lightning's `global_step` and `max_steps`.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        replays: optimizer steps on each batch, >= 1 (the paper's m).
        kwargs: settings of `Defense`; of the attack, the threat and the step size (by default the radius) are used.

    Raises:
        ValueError: for fewer than one replay, an attack with settings that are not used, or where gradients accumulate.

    Example:
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> from lightning_robust.threat import Threat
        >>> model = FreeAT(SmallConvNet(in_channels=1, num_classes=10), replays=4, attack=PGD(Threat("linf", 0.15)))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> bool((model.generate(batch).adv == batch.x).all())  # the noise starts at 0
        True

    Paper: Shafahi et al. 2019 (arXiv 1904.12843), algorithm 1.
    Reference: mahyarnajibi/FreeAdversarialTraining@e185c84.
    """

    def __init__(self, net: nn.Module, replays: int = 4, **kwargs: Any) -> None:
        super().__init__(net, **kwargs)
        if replays < 1:
            raise ValueError(f"FreeAT needs replays >= 1, got {replays}.")
        plain_pgd("FreeAT", self.attack, "threat and step_size")
        self.replays = replays
        self.noise = torch.zeros(0)  # no buffer: each rank's is its own
        self._added = torch.zeros(0)

    def generate(self, batch: Batch) -> Views:
        """Return the images with the noise added; the backward pass leaves the noise its gradient."""
        b, *shape = batch.x.shape
        if list(self.noise.shape[1:]) != shape:
            self.noise = batch.x.new_zeros(0, *shape)
        more = self.noise.new_zeros(max(b - len(self.noise), 0), *shape)
        self.noise = torch.cat([self.noise, more]).to(batch.x)
        self._added = leaf_copy(self._project(self.noise[:b]))
        threat = self.attack.threat
        return Views((batch.x + self._added).clamp(threat.lower, threat.upper))

    def on_after_backward(self) -> None:
        """Move the noise along the gradient that the backward pass left."""
        assert self._added.grad is not None
        gradient = torch.nan_to_num(self._added.grad, nan=0.0, posinf=0.0, neginf=0.0)
        used, threat = self._added.detach(), self.attack.threat
        step_size = as_pgd("FreeAT", self.attack).step_size
        step = threat.eps if step_size is None else step_size
        self.noise[: len(used)] = self._project(used + step * threat.steepest(gradient))

    def _project(self, noise: Tensor) -> Tensor:
        """Project the noise into the ball around 0; the images alone have a box."""
        return self.attack.threat.without_box().project(noise, torch.zeros_like(noise))

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None, **kwargs: Any
    ) -> None:
        """Run Lightning's optimizer step, whose closure trains on the batch, once for each replay."""
        for _ in range(1 if self.gathers_statistics else self.replays):
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure, **kwargs)

    def setup(self, stage: str) -> None:
        """Refuse what `Defense` does, and gradients that accumulate over batches."""
        super().setup(stage)
        if stage == "fit" and accumulates(self.trainer) > 1:
            raise ValueError("FreeAT takes its steps on one batch: set accumulate_grad_batches to 1.")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store every rank's noise, or only this rank's where another may have failed and would be waited for."""
        super().on_save_checkpoint(checkpoint)
        noise = [self.noise.cpu()]
        if world_size() > 1 and not self.trainer.interrupted:
            noise = []
            for rank in range(world_size()):  # one after the other: a device need not hold them all
                part = self.noise.clone()
                torch.distributed.broadcast(part, rank)
                noise += [part.cpu()] if self.trainer.is_global_zero else []
        checkpoint["noise"] = torch.stack(noise or [self.noise.cpu()])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore this rank's noise from the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        if (noise := checkpoint.get("noise")) is not None:
            self.noise = noise[self.global_rank % len(noise)].clone()
