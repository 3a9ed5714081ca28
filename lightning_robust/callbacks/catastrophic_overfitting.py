"""Detects catastrophic overfitting: single-step training that no longer helps against attacks of several steps."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_robust.attacks import PGD, Attack
from lightning_robust.callbacks.adversarial_inputs import attack_holder
from lightning_robust.callbacks.any_module import AnyModule, select
from lightning_robust.data.batch_mixing import BatchMixing
from lightning_robust.evaluation.aims import refuse_beyond_radius, refuse_targeted
from lightning_robust.evaluation.threats import under_threat
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.runtime.precision import full_precision
from lightning_robust.runtime.ranks import gather_objects
from lightning_robust.runtime.rng import global_seed, training_rng
from lightning_robust.types import Batch

CHECK = 2001
"""Identifies the random stream of the attack; the value is arbitrary."""


class CatastrophicOverfitting(AnyModule):
    """Stops single-step training, or warns, once the net withstands one step but no longer several.

    At the end of each epoch, before its validation, the net's accuracy is measured on a training batch under FGSM and
    under PGD, and logged as `train/fgsm_acc` and `train/pgd_acc`. Where the second falls by more than `drop` from one
    epoch to the next, the weights of the epoch before are restored and the training stops. Checkpoints hold the last
    accuracy and those weights, so a resumed run decides as it would have.

    The batch is the epoch's last full one, on each device its own; the accuracy is that of all of them.

    Args:
        attack: attack of several steps, by default PGD with 5. Without a threat, it takes that of the training attack,
            as it is without `AttackStrength`.
        drop: the fall of the accuracy under `attack` from one epoch to the next above which training stops, in (0, 1].
        stop: whether to stop and restore the weights of the epoch before; if not, only warn.
        kwargs: `image_key`, `label_key`, `index_key`, `read_batch`, `forward`, `mean`, `std`, `ignore_index`; see
            `lightning_robust.callbacks.any_module.AnyModule`.

    Raises:
        TypeError: where neither the module nor `AdversarialInputs` has an attack, or for an unreadable batch.
        ValueError: for a drop out of range, a targeted attack, or one whose examples leave the radius; before training,
            for mixed images, or to stop beside averaged weights, which would keep the share of the failed
            epoch; in the loop, for images outside the threat's box.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[CatastrophicOverfitting(drop=0.2)], logger=False)

    Paper: Wong et al. 2020 (arXiv 2001.03994), which calls it catastrophic overfitting.
    Reference: locuslab/fast_adversarial@54f7287, train_cifar.py with --early-stop.
    Deviates: the reference takes the epoch's first batch and attacks in training mode, so that the check itself moves
    running statistics (six forward passes each epoch, some of them in the weights it keeps); here it leaves the net as
    it was. The rule, given the accuracies, is the reference's.
    """

    def __init__(self, attack: Attack | None = None, drop: float = 0.2, stop: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < drop <= 1:
            raise ValueError(f"drop must lie in (0, 1], got {drop}.")
        self.attack, self.drop, self.stop = attack or PGD(steps=5), drop, stop
        refuse_targeted({"attack": self.attack})
        refuse_beyond_radius({"attack": self.attack})
        self._batch: tuple[Any, int, int] | None = None
        self._accuracy: float | None = None
        self._weights: dict[str, Tensor] | None = None
        self._running = self.attack

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the threat, forget an earlier fit, and refuse to restore weights where others are evaluated."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._batch = self._accuracy = self._weights = None
        holder = attack_holder(trainer, pl_module)
        if holder is None:
            raise TypeError(
                f"CatastrophicOverfitting looks at adversarial training, but {type(pl_module).__name__} has no attack: "
                "give the trainer AdversarialInputs, or take a defense."
            )
        mixing = getattr(getattr(trainer, "datamodule", None), "mixing", None)
        if isinstance(mixing, BatchMixing) and mixing.mixes:
            raise ValueError(
                "CatastrophicOverfitting compares accuracies of training batches, which on mixed images depend on how "
                "they were mixed: leave it or the mixing out."
            )
        # taken before training, since under a radius that grows the accuracy of any net falls
        self._running = under_threat({"pgd": self.attack}, holder.attack.threat, None)["pgd"]
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        averages = [each for each in callbacks if isinstance(each, WeightAveraging)]
        if self.stop and any(getattr(each, "evaluate", "averaged") == "averaged" for each in averages):
            raise ValueError(
                "CatastrophicOverfitting puts back the weights that train, but the averaged ones, which are evaluated, "
                "would keep the share of the failed epoch: set its stop to false, or leave the averaging out."
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the batch if it is a full one, and check the net on it after the last."""
        size = len(self.reader(batch).x)
        if self._batch is None or size >= self._batch[2]:
            self._batch = batch, batch_idx, size
        if not trainer.is_last_batch:
            return
        kept, number, _ = self._batch
        self._batch = None
        accuracy = self.measure(trainer, pl_module, self.read(pl_module, kept), number)
        for name, value in accuracy.items():
            pl_module.log(f"train/{name}_acc", value, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
        self._judge(trainer, pl_module, accuracy["fgsm"], accuracy["pgd"])

    def measure(self, trainer: Trainer, module: LightningModule, batch: Batch, batch_idx: int) -> dict[str, float]:
        """Return the accuracy in [0, 1] on a batch of each rank, under "fgsm" and "pgd"."""
        batch, attack = select(batch, self.counts(batch.y)), self._running
        one_step = PGD(attack.threat, steps=1, start="none")  # 2.5 radii, projected: a step of the radius
        self.check_pixels(batch.x, attack.threat.lower, attack.threat.upper)
        net, found = self.net(module), {}
        with full_precision(batch.x):
            for name, each in {"fgsm": one_step, "pgd": attack}.items():
                rng = training_rng(global_seed(), trainer.current_epoch, batch_idx, trainer.global_rank, batch)
                x_adv = each(net, batch.x, batch.y, rng=rng.fork(CHECK))
                right = int((logits_no_grad(net, x_adv).argmax(1) == batch.y).sum())
                counts = torch.tensor(gather_objects((right, len(batch.y)))).sum(0).tolist()
                found[name] = counts[0] / max(counts[1], 1)
        return found

    def _judge(self, trainer: Trainer, module: LightningModule, fgsm: float, pgd: float) -> None:
        before = self._accuracy
        if before is not None and pgd - before < -self.drop:
            told = (
                f"Catastrophic overfitting in epoch {trainer.current_epoch}: the accuracy under the attack of several "
                f"steps fell from {before:.1%} to {pgd:.1%}, while under one step it is {fgsm:.1%}."
            )
            if self.stop and self._weights is not None:
                module.load_state_dict(self._weights)
                trainer.should_stop = True
                rank_zero_warn(f"{told} The training stops with the weights of the epoch before.")
                return
            rank_zero_warn(f"{told} More noise helps (the attack NFGSM), or a smaller step, or more steps.")
        self._accuracy = pgd
        if self.stop:
            self._weights = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the last accuracy and the weights that it belongs to."""
        return {"accuracy": self._accuracy, "weights": self._weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the last accuracy and the weights that it belongs to."""
        self._accuracy, self._weights = state_dict["accuracy"], state_dict["weights"]
