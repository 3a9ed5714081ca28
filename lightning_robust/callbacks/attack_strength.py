"""Schedules of the training attack's strength: its radius and number of steps by epoch."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from lightning_robust.attacks import PGD
from lightning_robust.schedules import Schedule


class AttackStrength(Callback):
    """Sets radius and steps of a defense's training attack at the start of each epoch; evaluation stays as it is.

    Radii that a method has for each sample (IAAT, after its warm-up) follow the method's own rule.

    A step size that the attack was given keeps its proportion to the radius. What was set depends on the epoch alone,
    so a resumed run goes on as it would have; at the end the attack is the one it was.

    Args:
        eps: radius, by epoch.
        steps: number of steps, by epoch, rounded.

    Raises:
        TypeError: for a module that has no attack of the kind `PGD`, as every defense has.

    Paper: a radius that grows over the first epochs, Gowal et al. 2018 (arXiv 1810.12715), section 4.
    """

    def __init__(self, eps: Schedule | None = None, steps: Schedule | None = None) -> None:
        super().__init__()
        self.eps, self.steps = eps, steps
        self._whole: PGD | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the attack as it is configured, to put it back at the end."""
        attack = getattr(pl_module, "attack", None)
        if not isinstance(attack, PGD):
            raise TypeError(f"AttackStrength sets a defense's attack, but {type(pl_module).__name__} has none.")
        self._whole = attack

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Set the radius and the number of steps of this epoch."""
        assert self._whole is not None
        attack = self._whole
        if self.eps is not None:
            attack = attack.with_eps(self.eps(trainer.current_epoch))
        if self.steps is not None:
            attack = attack.with_steps(round(self.steps(trainer.current_epoch)))
        pl_module.attack = attack
        pl_module.log("train/attack_eps", attack.threat.eps)
        pl_module.log("train/attack_steps", float(attack.steps))

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Put the attack back as it was configured."""
        if self._whole is not None:
            pl_module.attack, self._whole = self._whole, None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the attack back as it was configured."""
        self.on_fit_end(trainer, pl_module)
