"""Exponential and equal averages of the weights over training, which are evaluated, selected and exported."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_robust.callbacks.any_module import AnyModule
from lightning_robust.callbacks.training_images import check_repeatable, training_batches
from lightning_robust.parts.follows_run import length_of
from lightning_robust.parts.weight_average import WeightAverage
from lightning_robust.runtime.statistics import measure_statistics


class AveragedWeights(AnyModule, WeightAveraging):
    """Averages the weights over training, and lets the averaged ones be evaluated, selected and exported.

    After each optimizer step, `average <- d average + (1 - d) weights`. Before averaging starts, and until its first
    update, the average is the net itself.

    In fit's validation the averaged weights stand in the module, and after fit for good. In checkpoints `state_dict`
    has them and `current_model_state` the weights that train, with which a resumed run goes on.

    Args:
        decay: d, in [0, 1]; None gives all averaged nets the same weight, as stochastic weight averaging does.
        ramp: use min(decay, (1 + t) / (10 + t)) as d, t steps after `start`: the first nets are soon forgotten.
        start: the optimizer step, counted from 1, from which on nets are averaged; a float below 1 is a share of all
            steps, which is not rounded where t is counted.
        start_epoch: the epoch, counted from 0, from which on nets are averaged.
        every: whether nets are averaged after each "step" or at the end of each "epoch", before its validation.
        batch_norm: running statistics of batch norms that the averaged weights run with. "average" averages them as
            the parameters; "alias" takes those of the weights that train; "recompute" measures them before each
            evaluation, and at the end of each epoch, on that epoch's training images, as torch's `update_bn` does, in
            the mean over the ranks; checkpoints within an epoch have those of "alias".
        evaluate: whether the "averaged" weights are evaluated, selected and exported, or the "raw" ones that train.
            Checkpoints then keep the averages as `averaged_model_state`.
        kwargs: how "recompute" reads batches and calls the module, see `AnyModule`.

    Raises:
        ValueError: for settings out of range; before training, for sharded weights, another average of the weights,
            checkpoints with save_weights_only, a share of an unknown number of steps, or "recompute" without a data
            loader that can be iterated again.

    Example:
        >>> from lightning import Trainer
        >>> ema = AveragedWeights(decay=0.995, ramp=True, start=0.025, batch_norm="alias")
        >>> trainer = Trainer(callbacks=[ema], logger=False, accelerator="cpu")

    Paper: Izmailov et al. 2018 (arXiv 1803.05407); in adversarial training, Gowal et al. 2020 (arXiv 2010.03593).
    Reference: wzekai99/DM-Improves-AT@b390f25 is decay=0.995, ramp=True, start=0.025, batch_norm="alias".
    Deviates: none known.
    """

    _average_model: WeightAverage | None  # type: ignore[assignment]

    def __init__(
        self,
        decay: float | None = 0.999,
        ramp: bool = False,
        start: int | float = 0,
        start_epoch: int = 0,
        every: Literal["step", "epoch"] = "step",
        batch_norm: Literal["average", "alias", "recompute"] = "average",
        evaluate: Literal["averaged", "raw"] = "averaged",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if decay is not None and not 0 <= decay <= 1:
            raise ValueError(f"decay must be in [0, 1], or none for equal weights, got {decay}.")
        if ramp and decay is None:
            raise ValueError("ramp raises the decay, which equal weights do not have: leave ramp out, or set decay.")
        if start < 0 or (isinstance(start, float) and start >= 1):
            raise ValueError(f"start is a whole number of steps or a share of them below 1, got {start}.")
        if start_epoch < 0:
            raise ValueError(f"start_epoch must be at least 0, got {start_epoch}.")
        for name, value, known in (
            ("every", every, ("step", "epoch")),
            ("batch_norm", batch_norm, ("average", "alias", "recompute")),
            ("evaluate", evaluate, ("averaged", "raw")),
        ):
            if value not in known:
                raise ValueError(f"Unknown {name} {value!r}: choose from {', '.join(known)}.")
        self.decay, self.ramp, self.start, self.start_epoch = decay, ramp, start, start_epoch
        self.every, self.batch_norm, self.evaluate = every, batch_norm, evaluate
        self._start = 0.0  # the step of t = 0
        self._steps = 0  # optimizer steps until the last batch
        self._measured = -1  # the update after which statistics were measured

    @property
    def average(self) -> WeightAverage | None:
        """The average; None before averaging starts."""
        return self._average_model

    @property
    def _evaluated(self) -> WeightAverage | None:
        """The average that stands in for the weights that train; None where these are evaluated themselves."""
        updated = self.average is not None and self.average.count > 0  # one by epochs waits for the end of its first
        return self.average if updated and self.evaluate == "averaged" else None

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Return whether nets are averaged after this step or this epoch."""
        return self.average is not None and (step_idx if self.every == "step" else epoch_idx) is not None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse sharded weights, and checkpoints that would be without the averages; forget an earlier fit."""
        if stage == "fit":
            self._average_model, self._measured = None, -1
            if trainer.strategy.restore_checkpoint_after_setup:  # by which Lightning marks strategies that shard
                kind = type(trainer.strategy).__name__
                raise ValueError(f"AveragedWeights needs whole weights on each device, which {kind} shards: use ddp.")
            others: list[Any] = [each for each in trainer.callbacks if each is not self]  # type: ignore[attr-defined]
            for other in others:
                if isinstance(other, (WeightAveraging, StochasticWeightAveraging)):
                    raise ValueError(
                        f"AveragedWeights and {type(other).__name__} would each put their average in the other's "
                        "place, also in checkpoints: leave one of them out."
                    )
            savers: list[Any] = trainer.checkpoint_callbacks
            if self.evaluate == "averaged" and any(getattr(saver, "save_weights_only", False) for saver in savers):
                raise ValueError(  # no callback has a part in such files
                    "A ModelCheckpoint with save_weights_only saves the weights that train, not the averages that are "
                    "evaluated: leave save_weights_only out, or set evaluate to raw."
                )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move averages that were loaded to the device, where the module is by now."""
        if self.average is not None:
            self.average.to(pl_module.device)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the step at which averaging starts."""
        self._start, self._steps = float(self.start), trainer.global_step
        if isinstance(self.start, float) and self.start:
            steps = length_of(trainer, "step")
            if steps is None:
                raise ValueError("start is a share of the steps, whose number is not known: give it in whole steps.")
            self._start = self.start * steps
        if self.batch_norm == "recompute":
            check_repeatable(trainer.train_dataloader)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin the average with the weights that come before the first that counts."""
        counts = trainer.current_epoch >= self.start_epoch and trainer.global_step + 1 >= self._start
        if self.average is None and counts:
            self._average_model = WeightAverage(pl_module, self._decay, self.batch_norm)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the weights into the average after an optimizer step, and after the last one of an epoch."""
        stepped, self._steps = trainer.global_step > self._steps, trainer.global_step
        last = trainer.is_last_batch  # at the epoch's end its validation is over
        if (stepped and self.should_update(step_idx=trainer.global_step - 1)) or (
            last and self.should_update(epoch_idx=trainer.current_epoch)
        ):
            assert self.average is not None
            self.average.update_parameters(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the averaged weights in, with the statistics that belong to them."""
        if trainer.state.fn == "fit" and self._evaluated is not None:
            self._evaluated.put_in(pl_module)
            if not trainer.sanity_checking:  # there is no training loader yet
                self._measure(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the weights that train back: after the module's own hooks, and before the checkpoint is saved."""
        if trainer.state.fn == "fit" and self.average is not None:
            self.average.take_out(pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing, because `on_validation_start` has put the averaged weights in."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing, because the module's own hooks come later."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the statistics that the epoch's checkpoint needs, where no validation has."""
        if self.batch_norm == "recompute" and self.average is not None and self._measured != self.average.count:
            self.average.put_in(pl_module)
            self._measure(trainer, pl_module)
            self.average.take_out(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the weights that train back where a validation ends early."""
        self.on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing, because a checkpoint may still be saved."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the averaged weights in the module; a checkpoint that is saved later has both."""
        if self._evaluated is not None:
            self._evaluated.put_in(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Move the averages off the device, whose memory others may need."""
        if self.average is not None:
            self.average.to(torch.device("cpu"))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the weights that are evaluated as `state_dict`, and the others beside it."""
        if self.average is not None:
            averaged, raw = self.average.states(pl_module, measured=self._measured == self.average.count)
            chosen = self._evaluated is not None
            checkpoint["state_dict"] = averaged if chosen else raw
            checkpoint.update({"current_model_state": raw} if chosen else {"averaged_model_state": averaged})
            checkpoint["averaging_state"] = {"n_averaged": torch.tensor(self.average.count)}
            checkpoint["averaging_measured"] = self._measured

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with both weights; what is only evaluated stays as `state_dict` has it."""
        self._average_model = None
        if trainer.state.fn != "fit":
            return
        averaged: Mapping[str, Any] | None = checkpoint.get("averaged_model_state")
        if "current_model_state" in checkpoint:
            averaged = checkpoint["state_dict"]
            pl_module.load_state_dict(checkpoint["current_model_state"], strict=pl_module.strict_loading)
        if averaged is None:
            rank_zero_info("The checkpoint holds no averaged weights: averaging starts with the weights it holds.")
            return
        self._average_model = WeightAverage(pl_module, self._decay, self.batch_norm)
        self._average_model.load(averaged, int(checkpoint.get("averaging_state", {}).get("n_averaged", 0)))
        self._measured = checkpoint.get("averaging_measured", -1)

    def _decay(self, n: int) -> float:
        """Return the weight of the average in the update after n others."""
        if self.decay is None:
            return n / (n + 1)
        first = math.ceil(self._start) if self._start > 0 else 1  # the first step that counts
        t = n + first - self._start
        return min(self.decay, (1 + t) / (10 + t)) if self.ramp else self.decay

    def _measure(self, trainer: Trainer, module: LightningModule) -> None:
        """Measure the statistics of the averaged weights, which stand in the module, unless they are those of now."""
        average = self._average_model
        if average is None or self.batch_norm != "recompute" or self._measured == average.count:
            return
        images = (self.read(module, batch, soft=True).x for batch in training_batches(trainer, module.device))
        with isolate_rng(), trainer.precision_plugin.forward_context():
            measure_statistics(self.net(module), images)
        average.store(module, lambda tensor: trainer.strategy.reduce(tensor, reduce_op="mean"))
        self._measured = average.count
