"""Adversarial training of an existing LightningModule, without touching its code."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_robust.attacks.base import Attack
from lightning_robust.runtime.modes import AttackBN, logits_no_grad
from lightning_robust.runtime.rng import global_seed, training_rng
from lightning_robust.types import Batch
from lightning_robust.utils.checks import check_images, check_labels, check_logits


class AdversarialInputs(Callback):
    """Gives the module's `training_step` batches whose images are adversarial; the rest of a batch stays as it was.

    Works on any LightningModule whose `forward` takes images [b c h w] in [0, 1] to logits [b k]. The batch may be a
    tuple, named tuple, list or mapping; it is rebuilt around the new images, so no tensor of the data loader or of the
    dataset is ever written to. The attack runs under the trainer's precision, on the bare module (never through its
    distributed wrapper).

    Args:
        attack: crafts the images, on cross-entropy.
        attack_bn: how the module's batch norms run during the attack: "eval", "batch" or "train".
        image_key: where the images stand in the batch.
        label_key: where the labels stand in the batch.

    Raises:
        TypeError: for a batch without these two tensors.
        ValueError: on the first batch, for images outside the threat's box or outputs that are not logits.
    """

    def __init__(
        self, attack: Attack, attack_bn: AttackBN = "eval", image_key: int | str = 0, label_key: int | str = 1
    ) -> None:
        super().__init__()
        self.attack = attack
        self.attack_bn = attack_bn
        self.image_key = image_key
        self.label_key = label_key
        self._undo: Callable[[], None] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the attack in front of this module's `training_step`."""
        step, instance = pl_module.training_step, vars(pl_module)
        own = instance.get("training_step")  # None unless it was set on the object rather than its class
        checked = False

        @functools.wraps(step)
        def adversarial_step(batch: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal checked
            x, y = self._read(batch)
            if not checked:
                self._check(pl_module, x, y)
                checked = True
            place = (trainer.current_epoch, trainer.fit_loop.batch_idx, trainer.global_rank)
            rng = training_rng(global_seed(), *place, Batch(x, y))
            x_adv = self.attack(pl_module, x, y, bn=self.attack_bn, rng=rng)
            return step(_replaced(batch, self.image_key, x_adv), *args, **kwargs)

        def undo() -> None:
            if instance.pop("training_step", None) is not None and own is not None:
                instance["training_step"] = own

        instance["training_step"], self._undo = adversarial_step, undo

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the module its own `training_step` back."""
        if self._undo is not None:
            self._undo()
            self._undo = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the module its own `training_step` back."""
        self.teardown(trainer, pl_module, "fit")

    def _read(self, batch: Any) -> tuple[Tensor, Tensor]:
        try:
            x, y = batch[self.image_key], batch[self.label_key]
        except (LookupError, TypeError):
            x = y = None
        if not isinstance(x, Tensor) or not isinstance(y, Tensor):
            keys = f"; its keys are {list(batch)}" if isinstance(batch, Mapping) else ""
            raise TypeError(
                f"A {type(batch).__name__} has no images at {self.image_key!r} and labels at {self.label_key!r}{keys}: "
                "set AdversarialInputs' image_key and label_key."
            )
        return x, y

    def _check(self, net: LightningModule, x: Tensor, y: Tensor) -> None:
        check_images(x, self.attack.threat.lower, self.attack.threat.upper)
        check_labels(y)
        check_logits(logits_no_grad(net, x), y)


def _replaced(batch: Any, key: int | str, value: Tensor) -> Any:
    """Return a new container of the same type with one element exchanged."""
    if isinstance(batch, Mapping):
        return {**batch, key: value}
    parts = [value if i == key else part for i, part in enumerate(batch)]
    if hasattr(batch, "_fields"):
        return type(batch)(*parts)
    return type(batch)(parts)
