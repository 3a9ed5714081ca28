"""Adversarial training of an existing LightningModule, without touching its code."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from lightning_robust.attacks.base import Attack
from lightning_robust.callbacks.any_module import AnyModule, select
from lightning_robust.evaluation.aims import refuse_targeted
from lightning_robust.runtime.modes import AttackBN, logits_no_grad
from lightning_robust.runtime.rng import SampleRNG, derive_seed, global_seed, training_rng
from lightning_robust.types import Batch
from lightning_robust.utils.labels import check_labels
from lightning_robust.utils.logits import check_logits

CHOICE = 2610
"""Identifies the random stream by which a share of a batch is chosen; the value is arbitrary."""


class AdversarialInputs(AnyModule):
    """Gives the module's `training_step` batches whose images are adversarial; the rest of a batch stays as it was.

    Works on any LightningModule from images [b c h w] to logits [b k]. The batch may be of any type; a new one of the
    same type is built around the new images, so no tensor of the data loader or of the dataset is ever written to. The
    attack runs under the trainer's precision, on the bare module (never through its distributed wrapper).

    Args:
        attack: crafts the images, on cross-entropy.
        attack_bn: how the module's batch norms run during the attack: "eval", "batch" or "train".
        share: part of the samples that becomes adversarial, in (0, 1]: of each batch so many, rounded up or down by
            chance so that the part is right on average. The samples are drawn anew in each step; the others, and those
            with the label `ignore_index`, stay as they are.
        kwargs: `image_key`, `label_key`, `index_key`, `read_batch`, `forward`, `mean`, `std`, `ignore_index`; see
            `lightning_robust.callbacks.any_module.AnyModule`. With `read_batch` it needs `image_key`, the place from
            which that function takes the images: adversarial ones are written there.

    Raises:
        TypeError: for an unreadable batch, or one without images where `image_key` says.
        ValueError: for a targeted attack, a share out of range, or `read_batch` without `image_key`; on the first
            batch, for images outside the threat's box or outputs that are not logits.
    """

    def __init__(self, attack: Attack, attack_bn: AttackBN = "eval", share: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        refuse_targeted({"attack": attack})
        if self.reader.read is not None and self.reader.image_key is None:
            raise ValueError(
                "AdversarialInputs with read_batch needs image_key, the place from which read_batch takes the images: "
                "adversarial ones are written there."
            )
        if not 0 < share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {share}.")
        self.attack = attack
        self.share = share
        self.attack_bn = attack_bn
        self._undo: Callable[[], None] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the attack in front of this module's `training_step`, before finders of rates or batch sizes run it."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        step, instance = pl_module.training_step, vars(pl_module)
        own = instance.get("training_step")  # None unless it was set on the object rather than its class
        checked = False

        @functools.wraps(step)
        def adversarial_step(batch: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal checked
            net, given = self.net(pl_module), self.read(pl_module, batch, soft=True)
            if not checked:
                self._check(net, given)
                checked = True
            place = (trainer.current_epoch, trainer.fit_loop.batch_idx, trainer.global_rank)
            rng = training_rng(global_seed(), *place, Batch(given.x, given.y))
            rounding = derive_seed(global_seed(), *place, CHOICE) / 2**63  # on the host: reading it waits for no device
            x_adv = self._attacked(net, given, rng, rounding)
            return step(self.replaced(pl_module, batch, x_adv), *args, **kwargs)

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

    def _attacked(self, net: nn.Module, batch: Batch, rng: SampleRNG, rounding: float) -> Tensor:
        """Return the images of a batch, those that are chosen for it as adversarial examples.

        The number of a batch's chosen samples is rounded up where its fraction and `rounding`, drawn from [0, 1), reach
        1, so that small batches too have the share on average.
        """
        if self.share == 1 and self.ignore_index is None:
            return self.attack(net, batch.x, batch.y, bn=self.attack_bn, rng=rng)
        counts = self.counts(batch.y)
        n = len(counts) if self.ignore_index is None else int(counts.sum())
        place = rng.fork(CHOICE).uniform(torch.empty(len(counts), 1, device=counts.device))[:, 0]
        chosen = min(n, math.floor(self.share * n + rounding))
        rows = place.masked_fill(~counts, 1.0).argsort()[:chosen].sort().values
        if not len(rows):
            return batch.x
        x, y = batch.x[rows], batch.y[rows]
        return batch.x.index_copy(0, rows, self.attack(net, x, y, bn=self.attack_bn, rng=rng[rows]))

    def _check(self, net: nn.Module, batch: Batch) -> None:
        self.check_pixels(batch.x, self.attack.threat.lower, self.attack.threat.upper)
        counting = select(batch, self.counts(batch.y))
        if len(counting.y):
            check_labels(counting.y)
            check_logits(logits_no_grad(net, counting.x), counting.y)


def attack_holder(trainer: Trainer, module: Any, kinds: tuple[type, ...] = (Attack,)) -> Any:
    """Return who holds the training attack as `attack`: the module, as defenses do, or `AdversarialInputs`.

    Args:
        trainer: the trainer with the callbacks.
        module: the module that it trains.
        kinds: the kinds of attack that count.

    Returns:
        The holder, or None where there is none.
    """
    callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
    holders = [module, *(callback for callback in callbacks if isinstance(callback, AdversarialInputs))]
    return next((holder for holder in holders if isinstance(getattr(holder, "attack", None), kinds)), None)
