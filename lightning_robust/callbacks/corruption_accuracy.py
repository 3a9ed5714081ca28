"""Accuracy under common corruptions in Lightning's own evaluation loops, for any LightningModule."""

from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from rich import get_console

from lightning_robust.callbacks.any_module import AnyModule
from lightning_robust.callbacks.figures import save_figure
from lightning_robust.callbacks.run_folder import run_folder
from lightning_robust.data import CorruptionSuite
from lightning_robust.data.corruption_suite import suite_in
from lightning_robust.evaluation.corruption_report import corruption_figure, corruption_report, corruption_table
from lightning_robust.evaluation.positions import Positions
from lightning_robust.evaluation.provenance import evaluated_in
from lightning_robust.metrics import ALEXNET_ERRORS, CorruptionError
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.runtime.precision import full_precision
from lightning_robust.utils.private_apis import evaluation_loaders
from lightning_robust.utils.writers import write_json


class CorruptionAccuracy(AnyModule):
    """Reports accuracy at each corruption and severity, their means, and mCE, in `test` and every validation.

    Works on any LightningModule from images [b c h w] to logits [b k]. It counts the loaders
    over a `CorruptionSuite` (of `CIFAR10C`, `CIFAR100C`, `ImageNetC`, `CommonCorruptions`) and no others, each sample
    once on any number of devices; batches come in the order of the dataset, or say where in it their samples stand:

        trainer = Trainer(callbacks=[CorruptionAccuracy()])
        trainer.test(module, DataLoader(CIFAR10C("data/CIFAR-10-C").test_data(), batch_size=256))

    and from the command line `lightning-robust test --config <run>/config.yaml --ckpt_path <file> --data CIFAR10C
    --data.root data/CIFAR-10-C --trainer.callbacks+=CorruptionAccuracy --evaluation.attacks '{}'`.

    Logs `test/<corruption>_acc`, `test/corruption_acc` (the mean over corruptions), with a reference `test/mce` (and
    `val/...`); writes `corruptions.json` and `figures/test-corruptions.png` into the run folder; after `validate`
    and `test`, prints a table.

    Args:
        reference: errors of the classifier that mCE is relative to, see `CorruptionError`; "alexnet" for ImageNet-C.
        kwargs: `image_key`, `label_key`, `index_key`, `read_batch`, `forward`, `mean`, `std`, `ignore_index`; see
            `lightning_robust.callbacks.any_module.AnyModule`.

    Raises:
        TypeError: in `test`, if no loader runs over `CorruptionSuite`; for an unreadable batch.
        ValueError: for batches without positions in another order than the dataset's, samples that a loader repeats, or
            a reference that lacks a corruption.
    """

    def __init__(self, reference: dict[str, float] | Literal["alexnet"] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reference = ALEXNET_ERRORS if reference == "alexnet" else reference
        self._positions: list[Positions] = []
        self._suites: list[CorruptionSuite | None] = []
        self._error: CorruptionError | None = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the counts for the loaders of this epoch."""
        loaders = evaluation_loaders(trainer)
        self._positions = [Positions(trainer, i) for i in range(len(loaders))]
        self._suites = [suite_in(loader) for loader in loaders]
        groups = dict.fromkeys(group for suite in self._suites for group in getattr(suite, "groups", []))
        if trainer.testing and not groups:
            raise TypeError(
                "CorruptionAccuracy found no loader over a CorruptionSuite: test on CIFAR10C, ImageNetC or "
                "CommonCorruptions."
            )
        self._error = CorruptionError(list(groups), self.reference).to(pl_module.device) if groups else None

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch's correct predictions by corruption."""
        positions, corruptions = self._positions[dataloader_idx], self._suites[dataloader_idx]
        if corruptions is None or self._error is None or trainer.sanity_checking:
            return
        given = self.read(pl_module, batch)
        index, keep = positions.next(len(given.x), given.x.device)
        keep &= positions.known or trainer.is_global_zero  # else every rank has read all of them
        if given.index is not None:
            index = given.index
            if not bool(((index >= 0) & (index < len(corruptions))).all()):
                raise ValueError(
                    f"Positions in {len(corruptions)} corrupted samples range over [{int(index.min())}, "
                    f"{int(index.max())}] in a batch: set index_key to where it holds positions."
                )
        elif not positions.ordered:
            raise ValueError(
                "CorruptionAccuracy knows a sample's corruption by its position: do not shuffle, wrap the dataset in "
                "lightning_robust.data.Indexed, or set index_key to where batches hold positions."
            )
        keep &= self.counts(given.y)
        with full_precision(given.x):
            logits = logits_no_grad(self.net(pl_module), given.x)
        numbers = torch.tensor([self._error.groups.index(group) for group in corruptions.groups], device=index.device)
        self._error.update(logits[keep], given.y[keep], numbers[corruptions.group_of(index[keep])])

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the accuracies, write the report and the figure, and print the table."""
        if self._error is None or trainer.sanity_checking:
            return
        stage, errors = "test" if trainer.testing else "val", self._error.compute()
        names = {"mean": "corruption", "clean": "uncorrupted"}
        for name, error in errors.items():
            ratio = name in ("mce", "relative_mce")
            key = f"{stage}/{name}" if ratio else f"{stage}/{names.get(name, name)}_acc"
            pl_module.log(key, error if ratio else 1 - error, sync_dist=True, batch_size=1, add_dataloader_idx=False)
        values, counts = {name: float(error) for name, error in errors.items()}, self._error.counts()
        self._refuse_repeats(counts)
        directory = run_folder(trainer)
        if trainer.is_global_zero:
            report = corruption_report(counts, values, self.reference, evaluated_in(trainer))
            self._leave(trainer, report, stage, directory)

    on_test_epoch_end = on_validation_epoch_end

    def _refuse_repeats(self, counts: dict[tuple[str, int], tuple[int, int]]) -> None:
        """Raise where more samples of a group were counted than there are: positions were others, or repeat."""
        sizes: dict[tuple[str, int], int] = {}
        for suite in filter(None, self._suites):
            for group, part in zip(suite.groups, suite.datasets, strict=True):
                sizes[group] = sizes.get(group, 0) + len(part)  # type: ignore[arg-type]
        for (name, severity), (_, n) in counts.items():
            size = sizes[name, severity]
            if n > size:
                raise ValueError(
                    f"{n} samples of {name} at severity {severity} were counted, but there are {size}: "
                    "let the loader give each sample once, and index_key name positions, not a domain or a label."
                )

    def _leave(self, trainer: Trainer, report: dict[str, Any], stage: str, directory: Path) -> None:
        write_json(report, directory / "corruptions.json")
        title = f"{stage}: {report['n']} samples, accuracy in %"
        save_figure(trainer, corruption_figure(report, title), f"{stage}-corruptions", directory)
        if trainer.state.fn != "fit":
            get_console().print(corruption_table(report, title))
