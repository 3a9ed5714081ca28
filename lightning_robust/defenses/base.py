"""The base of all defenses: the training step into which a method puts how it crafts and what it minimises."""

import inspect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from lightning.pytorch.core.mixins.hparams_mixin import HyperparametersMixin
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.pgd import PGD
from lightning_robust.defenses.accumulation import accumulates
from lightning_robust.defenses.averaging import check_averaging
from lightning_robust.defenses.batch_checks import check_batch
from lightning_robust.defenses.clean_evaluation import CleanEvaluation
from lightning_robust.defenses.epoch_means import EpochMeans
from lightning_robust.defenses.hyper_parameters import log_hyper_parameters
from lightning_robust.defenses.loss_contract import check_losses, check_repeats
from lightning_robust.defenses.optimizers import restore_factors, set_rates, with_schedule
from lightning_robust.defenses.perturbed_weights import PerturbedWeights
from lightning_robust.defenses.rate_scaling import rate_factor, rescale_checkpoint
from lightning_robust.defenses.several import several
from lightning_robust.defenses.stored_arguments import (
    KeepsArguments,
    or_not_stored,
    rebuilt,
    refuse_other,
    store_arguments,
)
from lightning_robust.defenses.strategies import check_strategy
from lightning_robust.parts.follows_run import FollowsRun, length_of
from lightning_robust.parts.parameter_groups import ParameterGroups, build_optimizer, check_groups
from lightning_robust.parts.regularizers import Regularizer
from lightning_robust.parts.reweighting import Reweighting
from lightning_robust.parts.weight_perturbation import WeightPerturbation
from lightning_robust.runtime.modes import AttackBN, disable_inference_mode, frozen_running_stats
from lightning_robust.runtime.outputs import logits_of
from lightning_robust.runtime.precision import half_precision
from lightning_robust.runtime.rng import SampleRNG, global_seed, training_rng
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Losses, Views
from lightning_robust.utils.batch_reader import BatchReader, Key
from lightning_robust.utils.images import check_precision
from lightning_robust.utils.labels import hard_labels, smoothed
from lightning_robust.utils.private_apis import allow_graphs, built_by_command_line, is_compiled, skips_backward

GRAPHS = 64
"""How many graphs of a net `torch.compile` may make: of attacks, losses and evaluation, for one batch size and any."""

PENALTIES = 2007
"""Identifies the random streams of the first penalty and those after it; the value is arbitrary."""


class Defense(KeepsArguments, LightningModule, ABC):
    """Trains a robust classifier; the base of all methods.

    In each step, `generate` crafts examples, `loss` turns them into one value per sample, regularizers add their
    penalties, and the mean over the batch is minimised. A method writes `loss`, and `generate` if it is not PGD on the
    cross-entropy. Called on images, a defense is the plain classifier.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k], or to an object, mapping or tuple that holds them (auxiliary
            heads are not trained); it normalises its input itself.
        attack: the training attack: threat, steps, step size. PGD-10 at linf 8/255 by default; most methods also take
            other attacks, such as `TrainingAPGD`. Its threat is also that of evaluation attacks without one.
        attack_bn: how the net's batch norms run during the attack: "eval" (running statistics), "batch" (the batch's
            statistics, running ones untouched) or "train" (updating them).
        attack_precision: "bf16" crafts the examples under autocast in bf16 whatever the trainer's precision, so that
            the loss and its gradient can stay in fp32; by default the trainer's. (IAAT's probes are part of it.)
        reweighting: how much each sample counts, from its adversarial logits; the weights of several are multiplied.
        regularizers: penalties added to the loss, one or several.
        weight_perturbation: moves the weights to where the loss is larger while the gradient is taken; several move
            them one after the other.
        optimizer: from parameters to an optimizer; SGD with momentum 0.9, weight decay 5e-4 and rate 0.1 by default.
        parameter_groups: which parameters have no weight decay, and how rates fall from layer to layer; by default all
            parameters are treated alike.
        scheduler: from the optimizer to a learning-rate schedule; one of `lightning_robust.parts.lr_schedules` takes a
            length that is left out from the run.
        scheduler_interval: whether the schedule counts epochs or steps.
        base_batch_size: samples a step, on all devices together, that the learning rate is meant for; with f times as
            many the optimizer starts with f times the rate (Goyal et al. 2017, arXiv 1706.02677). By default the rate
            is taken as it is.
        label_smoothing: weight of the uniform distribution in the labels that `loss` sees, in [0, 1); attacks and
            regularizers see the labels as they are.
        compile: compile the net with `torch.compile`; the names in checkpoints stay the same.
        channels_last: keep the net's weights in the memory layout [b h w c], in which its convolutions then run: faster
            on tensor cores and most CPUs.
        image_key: where a batch holds its images, see `lightning_robust.callbacks.any_module.AnyModule`; by default it
            begins with them, or has them under a usual name.
        label_key: where it holds its labels.
        index_key: where it holds the samples' positions in the dataset, if anywhere.
        read_batch: a function from a batch to a `Batch`, instead of the keys.

    Raises:
        TypeError: in a step, for an unreadable batch.
        ValueError: for a net without parameters, a targeted attack without random targets, another attack_precision, a
            label_smoothing out of range, or `read_batch` with `label_key` or `index_key`; in the first step, for images
            outside [0, 1] and the like; before it, for `base_batch_size` without a data module that has a batch size,
            or with a schedule that sets rates of its own.

    Example:
        >>> from lightning_robust.losses import cross_entropy
        >>> from lightning_robust.models import SmallConvNet
        >>> class CleanAndAdversarial(Defense):
        ...     def loss(self, batch, views):
        ...         logits, logits_adv = self.logits(batch.x), self.logits(views.adv)
        ...         total = cross_entropy(logits, batch.y) + cross_entropy(logits_adv, batch.y)
        ...         return Losses(total, {}, logits_adv)
        >>> model = CleanAndAdversarial(SmallConvNet(in_channels=1, num_classes=10), attack=PGD(steps=2))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        attack: PGD | Attack | None = None,
        attack_bn: AttackBN = "eval",
        attack_precision: Literal["bf16"] | None = None,
        reweighting: Reweighting | Sequence[Reweighting] | None = None,
        regularizers: Regularizer | Sequence[Regularizer] | None = None,
        weight_perturbation: WeightPerturbation | Sequence[WeightPerturbation] | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=5e-4),
        parameter_groups: ParameterGroups | None = None,
        scheduler: Callable[[Optimizer], FollowsRun | ReduceLROnPlateau] | LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        base_batch_size: int | None = None,
        label_smoothing: float = 0.0,
        compile: bool = False,
        channels_last: bool = False,
        image_key: Key | None = None,
        label_key: Key | None = None,
        index_key: Key | None = None,
        read_batch: Callable[[Any], Batch] | None = None,
    ) -> None:
        super().__init__()
        under_cli = built_by_command_line(HyperparametersMixin)
        self._settings = store_arguments(self, inspect.currentframe(), under_cli, _DEFAULTS["optimizer"])
        attack = rebuilt(attack)
        if not any(True for _ in net.parameters()):
            raise ValueError(f"{type(net).__name__} has no parameters: there is nothing to train or defend.")
        parts = () if attack is None else attack.parts
        if any(isinstance(part, PGD) and part.targeted and part.random_targets is None for part in parts):
            raise ValueError(
                "A targeted attack leads towards the labels it is given, so the training examples would be easier than "
                "the clean ones: set random_targets to the number of classes, or targeted to false."
            )
        if attack_precision not in (None, "bf16"):
            raise ValueError(f"attack_precision must be bf16 or left out, got {attack_precision!r}.")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}.")
        self.net = net
        self.label_smoothing = label_smoothing
        self.attack: Attack = attack or PGD()
        self.attack_bn = attack_bn
        self.attack_precision = attack_precision
        self.reweightings = several(rebuilt(reweighting))
        self.regularizers = several(rebuilt(regularizers))
        self.weight_perturbations = several(rebuilt(weight_perturbation))
        self.reader = BatchReader(image_key, label_key, index_key, read_batch)
        # the default is not kept: a function within another cannot be sent to the processes of ddp_spawn
        self._optimizer = None if optimizer is _DEFAULTS["optimizer"] else or_not_stored("optimizer", optimizer)
        self._parameter_groups: ParameterGroups | None = rebuilt(parameter_groups)
        self._scheduler = or_not_stored("scheduler", scheduler)
        self._interval = scheduler_interval
        self._base_batch_size = base_batch_size
        self._compile = compile
        self._channels_last = channels_last
        self._perturbed = PerturbedWeights(self.weight_perturbations)
        self.lr: float | None = None
        """Learning rate instead of the optimizer's own; Lightning's finder of learning rates sets it."""
        self._batch_idx = 0
        self._draws: int | None = None  # how often this step has asked for random numbers; None outside of steps
        self._checked: set[str] = set()
        self._classes = 0  # of the net, from the first batch on
        self._means = EpochMeans("_means")
        self._clean = CleanEvaluation()

    @property
    def trained_at(self) -> Threat | None:
        """The threat that the method trains against, of several the first; None where it trains on clean images."""
        return self.attack.threat

    @property
    def gathers_statistics(self) -> bool:
        """Whether `StochasticWeightAveraging` makes its last pass, which sets the statistics of batch norms alone."""
        return self._trainer is not None and skips_backward(self.trainer)

    def generate(self, batch: Batch) -> Views:
        """Craft the examples that this step trains on."""
        return Views(self.craft(batch))

    @abstractmethod
    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return what the method minimises, one value per sample, from `self.logits` in training mode.

        A weight perturbation calls it several times in a step: it keeps no state, and draws no random numbers but those
        of the net. The first step checks this, and the shapes.

        Args:
            batch: images, labels and dataset positions.
            views: the examples that `generate` crafted.
        """

    def craft(self, batch: Batch, target: Tensor | None = None, **settings: Any) -> Tensor:
        """Run the training attack on the batch.

        Args:
            batch: images, labels and dataset positions.
            target: what the objective compares logits with, instead of the labels.
            settings: further arguments of the call, see `Attack.__call__`; as "attack" another attack than the training
                attack, such as one of its parts, and as "net" what is attacked, such as a function that calls the net.
        """
        attack: Attack = settings.pop("attack", self.attack)
        settings = {"bn": self.attack_bn, "rng": self.rng(batch), **settings}
        if "labels" in attack.uses:
            settings.setdefault("labels", batch.y)
        watches = [watch for reweighting in self.reweightings if (watch := reweighting.watch(batch.y)) is not None]
        if watches:
            settings["watch"] = lambda logits: [watch(logits) for watch in watches]
        return attack(settings.pop("net", self.net), batch.x, batch.y if target is None else target, **settings)

    def weigh(self, value: Tensor, logits_adv: Tensor, y: Tensor) -> Tensor:
        """Return the per-sample value [b], times the weights of each reweighting."""
        for reweighting in self.reweightings:
            value = value * reweighting(logits_adv, y, self.current_epoch)
        return value

    def rng(self, batch: Batch) -> SampleRNG:
        """Return the random numbers of this step, by seed, epoch, batch and the sample's position or the rank.

        Each further call within a step gives others, so that two attacks on a batch start at different points.
        """
        rng = training_rng(global_seed(), self.current_epoch, self._batch_idx, self.global_rank, batch)
        if self._draws is None:
            return rng
        self._draws += 1
        return rng if self._draws == 1 else rng.fork(self._draws)

    def forward(self, x: Tensor) -> Tensor:
        """Return the net's logits [b k] of images [b c h w] in [0, 1]."""
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        """Return the net's logits [b k] of images [b c h w], found in whatever it returns in its present mode."""
        return logits_of(self.net(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Craft examples, perturb the weights if asked, and return the mean loss."""
        self._batch_idx = batch_idx
        batch = self._receive("fit", batch)
        self._draws = 0
        with half_precision(batch.x) if self.attack_precision else nullcontext():
            views = self.generate(batch)
        self._draws = None
        epoch = self.current_epoch
        scaler = getattr(getattr(self._trainer, "precision_plugin", None), "scaler", None)  # of fp16
        scale = None if scaler is None else scaler.scale(torch.ones((), device=batch.x.device))
        method, first = type(self).__name__, "loss" not in self._checked
        learnt = batch
        if self.label_smoothing:
            learnt = batch._replace(y=smoothed(batch.y, self._classes, self.label_smoothing, batch.x))

        def loss_fn() -> Tensor:  # of no pass but the method's own do running statistics take notice
            with frozen_running_stats(self):
                return self.loss(learnt, views).total

        if first and self.weight_perturbations:
            check_repeats(method, loss_fn, batch.x.device)
        perturbed = self._perturbed.during_loss(self.net, loss_fn, epoch, scale)
        with nullcontext() if self.gathers_statistics else perturbed:
            losses = self.loss(learnt, views)
            if first:
                check_losses(method, losses, len(batch.x))
                self._checked.add("loss")
            total = losses.total
            parts = dict(losses.parts)
            for number, regularizer in enumerate(self.regularizers):  # after the forwards that move batch norms
                rng = self.rng(batch).fork(PENALTIES + number)
                penalty = regularizer.in_step(self.net, batch, views, epoch, self.attack.threat, rng)
                parts[_unused(regularizer.name, parts)] = penalty
                total = total + penalty
            self._means.log(self, "train/loss", total, prog_bar=True)
            right = (losses.logits_adv.argmax(1) == hard_labels(batch.y)).float()
            self._means.log(self, "train/adv_acc", right, prog_bar=True)
            for name, part in parts.items():
                self._means.log(self, f"train/{name}", part)
            return total.mean()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Run Lightning's backward pass, and move perturbed weights back, also if it raises."""
        with self._perturbed.during_backward():
            super().backward(loss, *args, **kwargs)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None, **kwargs: Any
    ) -> None:
        """Run Lightning's optimizer step, and move weights back that it should meet perturbed."""
        if self.gathers_statistics:  # Lightning would step along the gradient of the batch before
            optimizer_closure()
            return
        with self._perturbed.during_step():
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure, **kwargs)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the loss and accuracy on clean images; `RobustEvaluation` adds the attacks."""
        self._evaluation_step("val", batch, batch_idx, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the loss and accuracy on clean images; `RobustEvaluation` adds the attacks."""
        self._evaluation_step("test", batch, batch_idx, dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the logits of the clean images."""
        logits: Tensor = self(self.reader.images(batch))
        return logits

    def setup(self, stage: str) -> None:
        """Refuse precisions and strategies under which training would be wrong, and let attacks take gradients."""
        check_precision(str(self.trainer.precision))
        if self.attack_precision and str(self.trainer.precision) == "64-true":
            raise ValueError("attack_precision='bf16' does nothing to nets in double precision: leave one of them out.")
        if stage == "fit":
            check_strategy(
                self.trainer.strategy,
                accumulates(self.trainer),
                regularized=bool(self.regularizers),
                perturbed=bool(self.weight_perturbations),
            )
        disable_inference_mode(self.trainer)

    def configure_model(self) -> None:
        """Bring the net into channels-last layout and compile it, in place, if asked."""
        if self._channels_last:
            self.net.to(memory_format=torch.channels_last)
        if self._compile and not is_compiled(self.net):
            # each mode and each gradient is a graph of its own: beyond torch's limit of 8 it would run eagerly
            allow_graphs(GRAPHS)
            self.net.compile()

    def configure_optimizers(self) -> Any:
        """Build the optimizer over the parameters that train, and its schedule."""
        optimizer = build_optimizer(self._optimizer or _DEFAULTS["optimizer"], self, self._parameter_groups)
        base = self._base_batch_size
        if base is not None or self.lr is not None:
            set_rates(optimizer, 1.0 if base is None else rate_factor(self.trainer, base), self.lr)
        if self._scheduler is None:
            return optimizer
        length = lambda: length_of(self.trainer, self._interval)  # noqa: E731
        return with_schedule(optimizer, self._scheduler, self._interval, length, base is not None, self.lr)

    def on_fit_start(self) -> None:
        """Tell the loggers the hyper-parameters, and spread the rate that a finder has found over the groups."""
        restore_factors(self.trainer.optimizers, self.lr)
        self.on_test_start()

    def on_test_start(self) -> None:
        """Tell the loggers the hyper-parameters."""
        log_hyper_parameters(self.trainer, self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the method's name, so that another method refuses the checkpoint, and the factor of its rates."""
        checkpoint["defense"] = type(self).__name__
        if self._base_batch_size is not None:
            checkpoint["lr_factor"] = rate_factor(self.trainer, self._base_batch_size)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another method; scale the rates of a run with other batches as `base_batch_size` asks.

        Raises:
            ValueError: if another defense wrote it; in a fit, one with other `parameter_groups`, or one of a run that
                averaged weights, where this run does not.
        """
        refuse_other(checkpoint, type(self))
        if self._trainer is None or not self.trainer.training:
            return
        check_averaging(checkpoint, getattr(self.trainer, "callbacks", ()))
        check_groups(checkpoint, self, self._parameter_groups)
        if self._base_batch_size is not None:
            rescale_checkpoint(checkpoint, rate_factor(self.trainer, self._base_batch_size))

    def _evaluation_step(self, stage: str, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        batch = self._receive(stage, batch)
        values = self._clean(self.trainer, self(batch.x), batch.y, batch_idx, dataloader_idx)
        for name, value in values.items():
            self._means.log(self, f"{stage}/{name}", value, dataloader_idx=dataloader_idx)

    def _receive(self, stage: str, given: Any) -> Batch:
        """Read a batch, and check it."""
        batch = self.reader(given)
        first = stage not in self._checked
        self._classes = check_batch(batch, self.net, self.attack.threat, self._trainer, first) or self._classes
        self._checked.add(stage)
        return batch


_DEFAULTS = Defense.__init__.__kwdefaults__ or {}


def _unused(name: str, taken: Collection[str]) -> str:
    """Return the name, or with the first number from 2 on where it is taken."""
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    return next(candidate for candidate in itertools.chain([name], numbered) if candidate not in taken)
