"""CFA's fair average of the weights: only nets whose worst class is robust enough enter it."""

import math
from collections import Counter
from itertools import islice
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_robust.attacks import PGD, Attack
from lightning_robust.callbacks.adversarial_inputs import attack_holder
from lightning_robust.callbacks.any_module import select
from lightning_robust.callbacks.averaged_weights import AveragedWeights
from lightning_robust.evaluation.aims import refuse_beyond_radius, refuse_targeted
from lightning_robust.evaluation.positions import Positions
from lightning_robust.evaluation.threats import under_threat
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.runtime.precision import full_precision
from lightning_robust.runtime.ranks import gather_objects
from lightning_robust.runtime.rng import SampleRNG, derive_seed, global_seed
from lightning_robust.utils.private_apis import evaluation_loaders, evaluation_loop

CHECK = 2303
"""Identifies the random stream of the attack; the value is arbitrary."""


class FairAveragedWeights(AveragedWeights):
    """Averages the nets at the ends of epochs, but only those whose worst class is robust enough.

    At the end of each epoch from `start_epoch` on, before its validation, the net that trains is attacked on the images
    of the first validation loader. If the accuracy of its worst class reaches `threshold`, it enters the average, the
    first one as it is. The accuracy, of which all ranks have the same, is logged as `train/worst_class_acc`. In all
    else it is `AveragedWeights`: until a net has entered, the net that trains is evaluated.

    Args:
        threshold: accuracy under attack of the worst class, in [0, 1], from which on a net enters the average.
        attack: the attack, by default PGD with 10 steps. Without a threat, it takes that of the training attack, as it
            is without `AttackStrength`.
        decay: see `AveragedWeights`.
        start_epoch: the epoch, counted from 0, from which on nets may enter.
        kwargs: other settings of `AveragedWeights`, without `every`.

    Raises:
        ValueError: for a threshold out of range, a targeted attack, or one whose examples leave the radius; in a fit,
            without a threat of the attack or of the training, without validation images, or as `AveragedWeights` does.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[FairAveragedWeights(threshold=0.2)], logger=False, accelerator="cpu")

    Paper: Wei et al. 2023 (arXiv 2303.14460), fairness aware weight average (FAWA).
    Reference: PKU-ML/CFA@071f333, which has no `start_epoch`.
    Deviates: a class's accuracy is over the number of its samples, where the reference divides by a tenth of all
    samples: the same on its balanced images. Classes without a validation image are left out.
    """

    def __init__(
        self,
        threshold: float = 0.2,
        attack: Attack | None = None,
        decay: float | None = 0.85,
        start_epoch: int = 50,
        **kwargs: Any,
    ) -> None:
        super().__init__(decay=decay, start_epoch=start_epoch, every="epoch", **kwargs)
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be an accuracy in [0, 1], got {threshold}.")
        self.threshold, self.attack = threshold, attack or PGD(steps=10)
        refuse_targeted({"attack": self.attack})
        refuse_beyond_radius({"attack": self.attack})
        self._running = self.attack
        self._robust = False  # whether the epoch's net is to enter

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Return whether the net enters the average after this epoch."""
        return super().should_update(step_idx, epoch_idx) and self._robust

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the attack's threat, and do what `AveragedWeights` does."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        holder = attack_holder(trainer, pl_module)
        if holder is None and not self.attack.threat_given:
            raise ValueError(
                f"FairAveragedWeights attacks the net, but {type(pl_module).__name__} has no training attack whose "
                "threat it could take: give its attack a threat."
            )
        # taken before training, since under a radius that grows the accuracy of any net falls
        trained_at = None if holder is None else holder.attack.threat
        self._running = under_threat({"attack": self.attack}, trained_at, None)["attack"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an epoch's last step, look whether its net is robust enough, and take it into the average."""
        if trainer.is_last_batch and self.average is not None:
            worst = min(self.accuracies(trainer, pl_module).values())
            pl_module.log("train/worst_class_acc", worst, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
            self._robust = worst >= self.threshold
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def accuracies(self, trainer: Trainer, module: LightningModule) -> dict[int, float]:
        """Return the accuracy under attack of each class, in [0, 1]; all ranks call it together."""
        net, loop, attack = self.net(module), evaluation_loop(trainer), self._running
        seed = derive_seed(global_seed(), trainer.current_epoch, CHECK)
        right, total = Counter[int](), Counter[int]()
        trainer.validating = True  # data modules finish batches of validation on the device
        try:
            loop.setup_data()
            if not loop.max_batches:
                raise ValueError("FairAveragedWeights attacks validation images, but there are none: set val_size.")
            positions = Positions(trainer, 0)
            most = loop.max_batches[0]
            with isolate_rng():
                for given in islice(evaluation_loaders(trainer)[0], None if math.isinf(most) else int(most)):
                    given = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(given))
                    batch = self.read(module, given)
                    position, counts = positions.next(len(batch.y), batch.y.device)
                    counts &= self.counts(batch.y)
                    batch, position = select(batch, counts), position[counts]
                    self.check_pixels(batch.x, attack.threat.lower, attack.threat.upper)
                    with full_precision(batch.x):
                        x_adv = attack(net, batch.x, batch.y, rng=SampleRNG(seed, position))
                        found = logits_no_grad(net, x_adv).argmax(1)
                    right.update(batch.y[found == batch.y].tolist())
                    total.update(batch.y.tolist())
        finally:
            trainer.training = True
        parts = gather_objects((right, total))
        right, total = (sum(column, Counter[int]()) for column in zip(*parts, strict=True))
        if not total:
            raise ValueError("FairAveragedWeights attacks validation images, but there are none: set val_size.")
        return {label: right[label] / n for label, n in sorted(total.items())}

    def _decay(self, n: int) -> float:
        """Return the weight of the average in the update after n others: the first net that enters is the average."""
        return super()._decay(n) if n else 0.0
