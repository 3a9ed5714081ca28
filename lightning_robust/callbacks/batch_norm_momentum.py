"""The momentum of batch norms' running statistics, with another one in the first step."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from lightning_robust.utils.private_apis import BatchNorm


class BatchNormMomentum(Callback):
    """Sets the momentum of all batch norms: the weight of a batch's statistics in the running ones.

    With `first=1` the running statistics forget how they were initialised: after the first optimizer step they are
    those of its last forward pass. The momentum depends on the number of optimizer steps alone, so that a resumed run
    goes on with the right one.

    Args:
        momentum: the momentum, in [0, 1].
        first: the momentum in the first optimizer step of the run, in [0, 1]; by default `momentum`.

    Raises:
        ValueError: for a momentum out of range; before training, for a module without batch norms.

    Reference: wzekai99/DM-Improves-AT@b390f25 has momentum 0.01 and first 1.0.
    Deviates: none known.
    """

    def __init__(self, momentum: float = 0.01, first: float | None = None) -> None:
        super().__init__()
        for name, value in (("momentum", momentum), ("first", first)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}.")
        self.momentum, self.first = momentum, first

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a module without batch norms."""
        if not any(isinstance(module, BatchNorm) for module in pl_module.modules()):
            raise ValueError(f"BatchNormMomentum found no batch norm in {type(pl_module).__name__}: leave it out.")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the momentum of this step."""
        momentum = self.momentum if trainer.global_step or self.first is None else self.first
        for module in pl_module.modules():
            if isinstance(module, BatchNorm):
                module.momentum = momentum
