"""Schedules of the training attack's radius, step size and number of steps."""

import math
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer

from lightning_robust.attacks import APGD, PGD, FriendlyPGD
from lightning_robust.callbacks.adversarial_inputs import attack_holder
from lightning_robust.schedules import Schedule


class AttackStrength(Callback):
    """Changes radius, step size and number of steps of the training attack over the epochs, not those of evaluations.

    The attack is a defense's, or that of `AdversarialInputs` in the same trainer.

    Radii that a method has for each sample (IAAT, after its warm-up) follow the method's own rule.

    A step size without a schedule keeps its ratio to the radius. The values depend on the epoch and the batch alone, so
    a resumed run goes on as it would have. After `fit`, the attack is as it was configured.

    Args:
        eps: radius, by epoch; None leaves it.
        steps: number of steps, by epoch, rounded; None leaves it.
        step_size: step size of `PGD`, by epoch, in the units of the radius; a constant schedule keeps it as the radius
            grows.
        tau: how long `FriendlyPGD` goes on from samples on which the net errs, by epoch, rounded; None leaves it.
        interval: "epoch" sets them at the start of each epoch; "step" before each batch, where the schedules count
            fractions of epochs.
        relative: whether `eps` and `step_size` are in units of the attack's radius, which then stands in one place:
            `Linear(0.2, 1, epochs=1)` grows from a fifth of any radius to all of it.

    Raises:
        TypeError: where neither has a `PGD` or `APGD` attack, for `step_size` with an attack that is not `PGD`, or for
            `tau` with one that is not `FriendlyPGD`.
        ValueError: for an unknown interval, or "step" where the number of batches in an epoch is unknown.

    Example:
        >>> from lightning_robust.schedules import Linear
        >>> ramp = AttackStrength(eps=Linear(0, "4/255", epochs=10))  # Debenedetti et al. 2023
        >>> round(255 * ramp.eps(5), 6)
        2.0

    Paper: a radius that grows over the first epochs, Gowal et al. 2018 (arXiv 1810.12715), section 4, and over 10
    epochs, Debenedetti et al. 2023 (arXiv 2209.07399); over 5 epochs batch by batch, N-FGSM on SVHN, de Jorge et al.
    2022 (arXiv 2202.01181); a step size that does so over 5, Liu et al. 2023 (arXiv 2302.14301); tau, Zhang et al. 2020
    (arXiv 2002.11242).
    """

    def __init__(
        self,
        eps: Schedule | None = None,
        steps: Schedule | None = None,
        step_size: Schedule | None = None,
        tau: Schedule | None = None,
        interval: Literal["epoch", "step"] = "epoch",
        relative: bool = False,
    ) -> None:
        super().__init__()
        if interval not in ("epoch", "step"):
            raise ValueError(f"AttackStrength's interval must be epoch or step, got {interval!r}.")
        self.eps, self.steps, self.step_size, self.tau = eps, steps, step_size, tau
        self.interval, self.relative = interval, relative
        self._whole: PGD | APGD | None = None
        self._holder: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the attack as it is configured, to put it back at the end."""
        self._holder = attack_holder(trainer, pl_module, (PGD, APGD))
        if self._holder is None:
            raise TypeError(
                f"AttackStrength sets a defense's attack, but {type(pl_module).__name__} has none: give the trainer "
                "AdversarialInputs with PGD or APGD, or take a defense."
            )
        self._whole = self._holder.attack
        if self.step_size is not None and not isinstance(self._whole, PGD):
            raise TypeError(f"AttackStrength sets a step size of PGD, but the attack is {type(self._whole).__name__}.")
        if self.tau is not None and not isinstance(self._whole, FriendlyPGD):
            raise TypeError(f"AttackStrength sets tau of FriendlyPGD, but the attack is {type(self._whole).__name__}.")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Set the attack of this epoch."""
        if self.interval == "epoch":
            self._set(pl_module, trainer.current_epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Set the attack of this batch, or that of the epoch in whose middle a run was resumed."""
        if self.interval == "epoch":
            if self._holder.attack is self._whole:  # Lightning did not call the hook of the epoch's start again
                self._set(pl_module, trainer.current_epoch)
        else:
            if trainer.num_training_batches == math.inf:
                raise ValueError("AttackStrength's interval 'step' needs an epoch of known length: set it to epoch.")
            self._set(pl_module, trainer.current_epoch + batch_idx / trainer.num_training_batches)

    def _set(self, pl_module: Any, epoch: float) -> None:
        attack = self._whole
        assert attack is not None
        unit = attack.threat.eps if self.relative else 1.0
        if self.eps is not None:
            attack = attack.with_eps(unit * self.eps(epoch))
        if self.steps is not None:
            attack = attack.with_steps(round(self.steps(epoch)))
        if self.step_size is not None and isinstance(attack, PGD):
            attack = attack.with_step_size(unit * self.step_size(epoch))
            pl_module.log("train/attack_step_size", attack.step_size)
        if self.tau is not None and isinstance(attack, FriendlyPGD):
            attack = attack.with_tau(round(self.tau(epoch)))
            pl_module.log("train/attack_tau", float(attack.tau))
        self._holder.attack = attack
        pl_module.log("train/attack_eps", attack.threat.eps)
        pl_module.log("train/attack_steps", float(attack.steps))

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Put the attack back as it was configured."""
        if self._whole is not None:
            self._holder.attack, self._whole = self._whole, None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the attack back as it was configured."""
        self.on_fit_end(trainer, pl_module)
