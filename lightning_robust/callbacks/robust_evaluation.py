"""Robust accuracy of any LightningModule, in Lightning's own evaluation loops."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from lightning_robust.attacks.base import Attack
from lightning_robust.callbacks.adversarial_inputs import AdversarialInputs
from lightning_robust.callbacks.collected import Collected
from lightning_robust.callbacks.evaluation_files import EvaluationFiles, refuse_names
from lightning_robust.callbacks.progress import evaluation_progress
from lightning_robust.callbacks.run_folder import run_folder
from lightning_robust.callbacks.sample_collector import SampleCollector
from lightning_robust.callbacks.unfinished import ends_on_sigterm, go_on
from lightning_robust.callbacks.unsound_evaluation import compare_clean, examine_run, refuse_doubts
from lightning_robust.data.corruption_suite import suite_in
from lightning_robust.evaluation.aims import refuse_beyond_radius, refuse_targeted
from lightning_robust.evaluation.calibration import calibration_report
from lightning_robust.evaluation.evaluate import Evaluation, Precision
from lightning_robust.evaluation.probed import indices, probed
from lightning_robust.evaluation.provenance import evaluated_in
from lightning_robust.evaluation.report import logged_values, robustness
from lightning_robust.evaluation.report_table import print_doubts
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.targeted_success import targeted_success
from lightning_robust.evaluation.targets import Targets, check_targets
from lightning_robust.evaluation.threats import (
    mismatch,
    short_of_radius,
    training_threat,
    training_threats,
    under_threat,
)
from lightning_robust.metrics import RobustAccuracy
from lightning_robust.runtime.modes import disable_inference_mode
from lightning_robust.runtime.ranks import gather_objects
from lightning_robust.threat import Threat
from lightning_robust.utils.images import check_precision
from lightning_robust.utils.private_apis import evaluation_loaders


class RobustEvaluation(SampleCollector):
    """Attacks the module in fit's validation, in `validate` and in `test`, and reports robust accuracy.

    Works on any LightningModule from images [b c h w] to logits [b k]. Modes, gradients and flags of the module are
    left as they were. Samples are collected while the loop runs and attacked after its last batch: stage after stage,
    survivors pooled into full batches and dealt out evenly over the ranks. A sample's random numbers depend on its
    position in the dataset, or where that is not known on its content, so the result depends neither on the batch size
    nor on the order or the number of devices.

    Until then the images wait, each rank's share in its main memory: images of 8 bits as one byte a value, others as
    they are, and those beyond `image_memory` in a temporary file. An image is let go when no attack or check needs it.
    Modules whose weights are sharded over the ranks (FSDP) cannot be evaluated: the ranks' forward passes differ in
    number.

    A `validate` or `test` that is killed goes on where it was when it is started again with the same weights, attacks
    and seed.

    Logs `val/clean_acc`, `val/<attack>_acc`, `val/worst_acc` (and `test/...`); writes `robustness.json`, `samples.csv`
    and figures into the run folder; after `validate` and `test`, prints a table. With several data loaders, names
    end in `/dataloader_idx_<i>` as Lightning's own do, files in `-<i>`.

    Args:
        attacks: the attacks, by the name under which they are reported. One without a threat takes that of the module's
            `attack`, as every defense has one, or of `AdversarialInputs`; where that attack has several, such as
            `WorstOf`, it runs at each, as `pgd-linf`, `pgd-l2` and so on. One that looks for the nearest example
            (`FAB`, `FMN` and the like) also gives a figure of accuracy against radius.
        fit_attacks: cheaper attacks for the validation inside fit; by default the same.
        fit_samples: in the validation inside fit, evaluate only this many samples of the loader; by default all.
        samples: in `validate` and `test`, evaluate only this many samples of each loader, the first ones; by default
            all.
        threat: the threat of all attacks, whatever they and the module have. Where it is not the one that a defense was
            trained against, the table and `robustness.json` say so.
        seed: seed of the attacks' random numbers.
        batch_size: samples attacked at a time; by default as many as the loader gives.
        precision: "bf16" searches under autocast, where only what is misclassified in fp32 too counts as a success.
        check_samples: in `validate` and `test`, samples on which the evaluation itself is checked; 0 for no checks.
        strict: end with an error where a check does not pass; the command line then ends with status 3.
        state_dir: where an unfinished evaluation is kept; by default `unfinished` in the trainer's root directory.
        image_memory: GiB of main memory in which the images of each loader may wait on each rank; what is beyond waits
            in a temporary file in `state_dir`, by default in the trainer's root directory, which vanishes with the
            process.
        figure_samples: samples shown in the figure of examples, the most telling of the first ones: those broken by the
            smallest change come first; 0 for no figures.
        figure_every_n_epochs: how often the validation inside fit draws it, from epoch 0 on, and after the last one.
        calibration: also report ECE, NLL and Brier score, without attacks and in the worst case over the attacks.
        targets: in `validate` and `test`, also run targeted attacks, and report their success: the number of a class,
            several of them (one after the other), or for each sample a "random" class or its "least_likely" one.
        name: tells several evaluations in one trainer apart: the names of its files begin with `<name>-`, and its
            results are logged as `val/<name>/<attack>_acc`. At most one may go without.
        loaders: the numbers of the data loaders to evaluate on; by default all. Names carry a number where several are.
        verbose: whether to print the table after `validate` and `test`.
        kwargs: `image_key`, `label_key`, `index_key`, `read_batch`, `forward`, `mean`, `std`, `ignore_index`; see
            `lightning_robust.callbacks.any_module.AnyModule`.

    Raises:
        TypeError: during the run, for an unreadable batch.
        ValueError: for attack names that clash or cannot stand in names of files, a targeted attack, or one whose
            examples leave the radius; during the run, for samples that a loader repeats, images outside the threat's
            box or of several sizes, outputs that are not logits, or examples outside the threat model.
        UnsoundEvaluation: under `strict`.
    """

    def __init__(
        self,
        attacks: dict[str, Attack],
        fit_attacks: dict[str, Attack] | None = None,
        fit_samples: int | None = None,
        samples: int | None = None,
        threat: Threat | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        precision: Precision = "fp32",
        check_samples: int = 64,
        strict: bool = False,
        state_dir: str | None = None,
        image_memory: float = 8.0,
        figure_samples: int = 8,
        figure_every_n_epochs: int = 10,
        calibration: bool = False,
        targets: Targets | None = None,
        name: str | None = None,
        loaders: list[int] | None = None,
        verbose: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, loaders, fit_samples, samples, figure_samples, image_memory, state_dir, **kwargs)
        if check_samples < 0:
            raise ValueError(f"check_samples must be at least 0, got {check_samples}.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        if figure_every_n_epochs < 1:
            raise ValueError(f"figure_every_n_epochs must be at least 1, got {figure_every_n_epochs}.")
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"Unknown precision {precision!r}: choose fp32 or bf16.")
        if targets is not None:
            check_targets(targets)
        self.attacks, self.threat, self.targets = attacks, threat, targets
        self.fit_attacks = attacks if fit_attacks is None else fit_attacks
        self.seed, self.batch_size, self.precision = seed, batch_size, precision
        self.check_samples, self.strict = check_samples, strict
        self.figure_every_n_epochs, self.calibration = figure_every_n_epochs, calibration
        for these in (self.attacks, self.fit_attacks):
            RobustAccuracy(list(these))  # refuses names that clash
            refuse_targeted(these)
            refuse_beyond_radius(these)
        refuse_names([*([] if self.name is None else [self.name]), *self.attacks, *self.fit_attacks])
        self.verbose = verbose
        self._trained_at: str | None = None
        self._logged: set[str] = set()

    @property
    def state_key(self) -> str:
        """The key of its state in checkpoints, by `name` alone: other attacks may evaluate what a fit has saved."""
        return self._generate_state_key(name=self.name)

    @property
    def results(self) -> dict[int, Collected]:
        """What was found on each data loader, by its number; the same on every rank."""
        return dict(self._loaders)

    def attacks_on(self, module: Any, fitting: bool = False) -> dict[str, Attack]:
        """Return the attacks, or those of the validation inside fit, under the threats that they are run at."""
        return under_threat(self.fit_attacks if fitting else self.attacks, training_threats(module), self.threat)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the threats, refuse true half precision, and let gradients be taken in the evaluation loops."""
        # now: during the fit a callback may make the training attack weaker
        trained = _trains(trainer, pl_module)
        self._running = self.attacks_on(trained, fitting=trainer.state.fn == "fit")
        self._trained_at = mismatch(trained, self._running)
        for told in short_of_radius(self._running):
            rank_zero_info(f"warning: {told}")
        super().setup(trainer, pl_module, stage)
        check_precision(str(trainer.precision))
        disable_inference_mode(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the accuracies, write the report and draw the figures."""
        if trainer.sanity_checking:
            return
        if not self._evaluated:  # a loader of unknown length
            self._evaluate(trainer, pl_module)
        stage = "test" if trainer.testing else "val"
        prefix = stage if self.name is None else f"{stage}/{self.name}"
        directory = run_folder(trainer)
        if trainer.state.fn == "fit":
            self.keep(trainer, {number: loader.report for _, number, loader in self._numbered()})
        logged = {} if trainer.state.fn == "fit" else self._of_module(trainer)
        for suffix, number, loader in self._numbered():
            told = loader.report
            compare_clean(told, logged, suffix)
            for name, value in logged_values(told).items():
                key = f"{prefix}/{name}{suffix}"
                self._logged.add(key)
                at = torch.tensor(value, device=pl_module.device)
                pl_module.log(key, at, sync_dist=True, batch_size=1, add_dataloader_idx=False)
            if trainer.is_global_zero:
                files = EvaluationFiles(trainer, self._running, directory, self.name, number)
                self._leave(trainer, files, loader)
            trainer.strategy.barrier()
            for state in loader.states:
                state.discard()

    on_test_epoch_end = on_validation_epoch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Under `strict`, end with an error where a check did not pass; the loggers have everything by now."""
        # by now there is also what the module logged in its own hook at the epoch's end
        logged = {} if trainer.state.fn == "fit" else self._of_module(trainer)
        for suffix, number, loader in self._numbered():
            if compare_clean(loader.report, logged, suffix) and trainer.is_global_zero:
                EvaluationFiles(trainer, self._running, run_folder(trainer), self.name, number).write(loader)
                if self.verbose:
                    print_doubts(loader.report["checks"][-1:])
        if self.strict:
            refuse_doubts(loader.report for loader in self._loaders.values())

    on_test_end = on_validation_end

    def _evaluate(self, trainer: Trainer, module: LightningModule) -> None:
        """Attack the samples that were collected, and gather the results on all ranks."""
        self._evaluated = True
        for i in sorted({i for part in gather_objects(list(self._loaders)) for i in part}):
            # for a rank that saw none of its batches
            none = Collected(suite=suite_in(evaluation_loaders(trainer)[i]), store=self.image_store(trainer))
            with ends_on_sigterm(trainer):
                self._evaluate_loader(trainer, module, i, self._loaders.setdefault(i, none))

    def _evaluate_loader(self, trainer: Trainer, module: LightningModule, i: int, loader: Collected) -> None:
        """Attack the samples of data loader i, whose images are not kept any longer."""
        net, device, attacks, fitting = self.net(module), module.device, self._running, trainer.state.fn == "fit"
        run = Evaluation(attacks, self.seed, self.batch_size or max(gather_objects(loader.largest)), self.precision)
        samples = loader.settle(self.most(trainer))
        if self.targets is not None and not fitting:
            check_targets(self.targets, loader.classes)  # before hours of attacks
        run.prepare(samples)
        save: Callable[[], None] = lambda: None  # noqa: E731
        if not fitting:
            about = {"name": self.name, **self.way_of_reading()}
            state = go_on(trainer, net, samples, run, loader.classes, i, self.state_dir, about)
            loader.states.append(state)
            save = partial(state.save, samples, run.seconds)
        n = self.check_samples if attacks and not fitting else 0
        wanted = indices(samples) if self.targets is not None and not fitting else probed(indices(samples), n)
        run.run(net, samples, device, save, evaluation_progress(trainer), wanted)
        targeted = None if fitting else self._move(trainer, net, device, samples, run, i, loader)
        loader.samples = samples.gather()
        told = gather_objects({"clean": loader.seconds, **run.seconds})
        seconds = {stage: max(part[stage] for part in told) for stage in told[0]}
        checks = examine_run(trainer, net, device, samples, loader.samples, run, n) if n else []
        about = self._about(trainer) if fitting else {**self._about(trainer), "images_sha256": loader.samples.sha256()}
        loader.report = robustness(loader.samples, attacks, seconds, checks, about)
        if (corrupted := loader.by_corruption()) is not None:
            loader.report["corruptions"] = corrupted
        if targeted:
            loader.report["targeted"] = targeted
        if self.calibration:
            found = loader.samples
            loader.report["calibration"] = calibration_report([found], found.robust(), run.random)

    def _move(
        self,
        trainer: Trainer,
        net: nn.Module,
        device: torch.device,
        samples: Samples,
        run: Evaluation,
        i: int,
        loader: Collected,
    ) -> dict[str, dict[str, Any]]:
        """Attack the samples of data loader i towards the targets, if there are any."""
        if self.targets is None or not run.attacks:
            return {}

        def begin(seen: nn.Module, part: Samples, again: Evaluation, name: str) -> Callable[[], None]:
            about = {"name": self.name, "targets": name, **self.way_of_reading()}
            state = go_on(trainer, seen, part, again, 2, i, self.state_dir, about)
            loader.states.append(state)
            return partial(state.save, part, again.seconds)

        watch = evaluation_progress(trainer, "not moved")
        return targeted_success(net, samples, run, self.targets, loader.classes, device, begin, watch)

    def _numbered(self) -> list[tuple[str, str, Collected]]:
        """List the loaders, each after what the names of its values and of its files end in."""
        several = len(self._loaders) > 1
        ends = {i: (f"/dataloader_idx_{i}", f"-{i}") if several else ("", "") for i in self._loaders}
        return [(*ends[i], loader) for i, loader in sorted(self._loaders.items())]

    def _of_module(self, trainer: Trainer) -> dict[str, Any]:
        """Return what has been logged so far, but for the accuracies of evaluations."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        ours = {key for each in callbacks if isinstance(each, RobustEvaluation) for key in each._logged}
        return {key: value for key, value in trainer.callback_metrics.items() if key not in ours}

    def _about(self, trainer: Trainer) -> dict[str, Any]:
        settings = {"seed": self.seed, "devices": trainer.world_size, "precision": self.precision}
        trained = {} if self._trained_at is None else {"trained_at": self._trained_at}
        names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
        named = {} if names is None else {"classes": list(names)}
        return {**evaluated_in(trainer), **settings, **trained, **named}

    def draws_after(self, epoch: int, max_epochs: int | None) -> bool:
        """Return whether the validation after this epoch of a fit draws its figures."""
        return self.figure_samples > 0 and (epoch + 1 == max_epochs or epoch % self.figure_every_n_epochs == 0)

    def _leave(self, trainer: Trainer, files: EvaluationFiles, loader: Collected) -> None:
        """Write and draw what rank 0 leaves."""
        fitting = trainer.state.fn == "fit"
        if self.figure_samples and (not fitting or self.draws_after(trainer.current_epoch, trainer.max_epochs)):
            files.draw_examples(loader, self.figure_samples)
        if fitting:  # its report is kept until the best checkpoint is known
            return
        files.write(loader)
        if self.figure_samples:
            files.write_examples(loader, 2 * self.figure_samples)
            files.draw_accuracies(loader)
        if self.verbose:
            files.print(loader)


def _trains(trainer: Trainer, module: LightningModule) -> Any:
    """Return what holds the training attack: the module, or the callback that makes its inputs adversarial."""
    callbacks: list[Any] = getattr(trainer, "callbacks", [])
    makers = [callback for callback in callbacks if isinstance(callback, AdversarialInputs)]
    return module if training_threat(module) or not makers else makers[0]
