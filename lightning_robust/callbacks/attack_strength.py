"""Schedules of the training attack's strength: its radius and number of steps by epoch."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from lightning_robust.attacks import PGD
from lightning_robust.callbacks.adversarial_inputs import AdversarialInputs
from lightning_robust.schedules import Schedule


class AttackStrength(Callback):
    """Sets radius and steps of the training attack at the start of each epoch; evaluation stays as it is.

    The attack is a defense's, or that of `AdversarialInputs` in the same trainer.

    Radii that a method has for each sample (IAAT, after its warm-up) follow the method's own rule.

    A step size that the attack was given keeps its proportion to the radius. What was set depends on the epoch alone,
    so a resumed run goes on as it would have; at the end the attack is the one it was.

    Args:
        eps: radius, by epoch.
        steps: number of steps, by epoch, rounded.

    Raises:
        TypeError: where neither has an attack of the kind `PGD`.

    Paper: a radius that grows over the first epochs, Gowal et al. 2018 (arXiv 1810.12715), section 4.
    """

    def __init__(self, eps: Schedule | None = None, steps: Schedule | None = None) -> None:
        super().__init__()
        self.eps, self.steps = eps, steps
        self._whole: PGD | None = None
        self._holder: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the attack as it is configured, to put it back at the end."""
        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
        holders = [pl_module, *(callback for callback in callbacks if isinstance(callback, AdversarialInputs))]
        self._holder = next((holder for holder in holders if isinstance(getattr(holder, "attack", None), PGD)), None)
        if self._holder is None:
            raise TypeError(
                f"AttackStrength sets a defense's attack, but {type(pl_module).__name__} has none: give the trainer "
                "AdversarialInputs with PGD, or take a defense."
            )
        self._whole = self._holder.attack

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Set the radius and the number of steps of this epoch."""
        assert self._whole is not None
        attack = self._whole
        if self.eps is not None:
            attack = attack.with_eps(self.eps(trainer.current_epoch))
        if self.steps is not None:
            attack = attack.with_steps(round(self.steps(trainer.current_epoch)))
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
