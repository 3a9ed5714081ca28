"""Robust accuracy in Lightning's own evaluation loops, for any LightningModule."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from lightning_robust.attacks.base import Attack
from lightning_robust.callbacks.figures import Examples, adversarial_grid, save_figure
from lightning_robust.callbacks.progress import attack_progress
from lightning_robust.callbacks.report import checkpoint_identity, print_table, robustness, write_json
from lightning_robust.callbacks.tally import Tally
from lightning_robust.checks import check_examples, check_images, check_labels, check_logits, check_precision
from lightning_robust.draws import Draws
from lightning_robust.metrics import RobustAccuracy
from lightning_robust.modes import disable_inference_mode, full_precision, quiet_logits
from lightning_robust.types import Batch, as_batch


class RobustEvaluation(Callback):
    """Attacks the module in fit's validation, in `validate` and in `test`, and reports robust accuracy.

    Works on any LightningModule whose `forward` takes images [b c h w] in [0, 1] to logits [b k] and whose batches are
    (x, y) or (x, y, index). Modes, gradients and flags of the module are left as they were. Attacks run in fp32. What a
    sample's random start is depends on its position in the dataset alone, so the result depends neither on the batch
    size nor on the number of devices.

    Logs `val/clean_acc`, `val/<attack>_acc`, `val/worst_acc` (and `test/...`); writes `robustness.json` and a figure
    into the run directory; after `validate` and `test`, prints a table. With several data loaders, names end in
    `/dataloader_idx_<i>` as Lightning's own do, files in `-<i>`.

    Args:
        attacks: the attacks, by the name under which they are reported.
        fit_attacks: cheaper attacks for the validation inside fit; by default the same.
        fit_samples: in the validation inside fit, evaluate only this many samples of the loader; by default all.
        seed: of the random starts.
        figure_samples: samples shown in the figure; 0 for no figure.
        figure_every_n_epochs: how often the validation inside fit draws it, from epoch 0 on, and after the last one.

    Raises:
        ValueError: for attack names that clash; during the run, for images outside the threat's box, outputs that are
            not logits, or examples outside the threat model.
    """

    def __init__(
        self,
        attacks: dict[str, Attack],
        fit_attacks: dict[str, Attack] | None = None,
        fit_samples: int | None = None,
        seed: int = 0,
        figure_samples: int = 8,
        figure_every_n_epochs: int = 10,
    ) -> None:
        super().__init__()
        if fit_samples is not None and fit_samples < 1:
            raise ValueError(f"fit_samples must be at least 1, got {fit_samples}.")
        self.attacks = attacks
        self.fit_attacks = attacks if fit_attacks is None else fit_attacks
        self.fit_samples = fit_samples
        self.seed = seed
        if figure_every_n_epochs < 1:
            raise ValueError(f"figure_every_n_epochs must be at least 1, got {figure_every_n_epochs}.")
        self.figure_samples = figure_samples
        self.figure_every_n_epochs = figure_every_n_epochs
        for names in (self.attacks, self.fit_attacks):
            RobustAccuracy(list(names))  # refuses names that clash
        self._loaders: dict[int, Tally] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse true half precision, and let gradients be taken in the evaluation loops."""
        check_precision(str(trainer.precision))
        disable_inference_mode(trainer)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin counting."""
        self._loaders = {}

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
        """Attack the batch."""
        attacks = self.fit_attacks if trainer.state.fn == "fit" else self.attacks
        if dataloader_idx not in self._loaders:
            self._loaders[dataloader_idx] = Tally(attacks, pl_module.device)
        tally, batch = self._loaders[dataloader_idx], as_batch(batch)
        position = tally.advance(trainer, len(batch.x))
        for box in {(attack.threat.lower, attack.threat.upper) for attack in attacks.values()}:
            check_images(batch.x, *box)
        check_labels(batch.y)
        if not batch_idx:
            with full_precision(batch.x):
                check_logits(quiet_logits(pl_module, batch.x), batch.y)
        if trainer.sanity_checking:
            return
        batch, position = self._each_once(trainer, batch, position, dataloader_idx)
        if len(batch.x):
            self._attack(trainer, pl_module, batch, position if batch.index is None else batch.index, tally)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log, write and draw."""
        if trainer.sanity_checking:
            return
        stage = "test" if trainer.testing else "val"
        directory = Path(trainer.log_dir or trainer.default_root_dir)
        for i, tally in self._loaders.items():
            suffix = f"/dataloader_idx_{i}" if len(self._loaders) > 1 else ""
            for name, value in tally.accuracy.compute().items():
                key = f"{stage}/{name}_acc{suffix}"
                pl_module.log(key, value, sync_dist=True, batch_size=1, add_dataloader_idx=False)
            report = self._report(trainer, tally)
            if trainer.is_global_zero:
                self._leave(trainer, tally, report, directory, f"-{i}" if suffix else "")

    on_test_epoch_end = on_validation_epoch_end

    def _each_once(self, trainer: Trainer, batch: Batch, position: Tensor, i: int) -> tuple[Batch, Tensor]:
        """Leave out what Lightning's distributed sampler repeats to even out the ranks, and what exceeds `fit_samples`.

        That sampler deals position p to rank p mod world size, so positions past the end are repetitions.
        """
        loaders = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
        loader: Any = loaders if isinstance(loaders, DataLoader) else list(loaders or [None])[i]
        limit = None if trainer.state.fn != "fit" else self.fit_samples
        if isinstance(getattr(loader, "sampler", None), DistributedSampler):
            limit = min(len(loader.dataset), limit or len(loader.dataset))
        if limit is None or int(position[-1]) < limit:
            return batch, position
        keep = position < limit
        return Batch(batch.x[keep], batch.y[keep], None if batch.index is None else batch.index[keep]), position[keep]

    def _attack(self, trainer: Trainer, net: LightningModule, batch: Batch, index: Tensor, tally: Tally) -> None:
        x, y = batch.x, batch.y
        with full_precision(x):
            with tally.timing("clean", x.device):
                logits = quiet_logits(net, x)
            after = {}
            for name, attack in tally.attacks.items():
                with attack_progress(trainer, name), tally.timing(name, x.device):
                    x_adv = attack(net, x, y, draws=Draws(self.seed, index))
                check_examples(x_adv, name, attack.threat.lower, attack.threat.upper)
                after[name] = quiet_logits(net, x_adv)
                tally.sizes[name].update(x_adv, x)
                if name not in tally.examples:
                    shown = (x, x_adv, y, logits.argmax(1), after[name].argmax(1))
                    tally.examples[name] = Examples(*(t[: self.figure_samples].detach().cpu() for t in shown))
        tally.accuracy.update(logits, after, y)

    def _report(self, trainer: Trainer, tally: Tally) -> dict[str, Any]:
        sizes = {name: {k: float(v) for k, v in size.compute().items()} for name, size in tally.sizes.items()}
        for name, attack in tally.attacks.items():
            if not sizes[name]["max"] <= attack.threat.eps * (1 + 1e-5) + 1e-6:  # NaN fails too
                raise ValueError(
                    f"Attack {name!r} left its threat model: a perturbation of {attack.threat.norm} size "
                    f"{sizes[name]['max']:.6g} with eps {attack.threat.eps:.6g}. Its accuracy means nothing; mend it."
                )
        about = {
            "stage": str(trainer.state.fn.value) if trainer.state.fn else None,
            "epoch": trainer.current_epoch,
            "checkpoint": checkpoint_identity(trainer.ckpt_path if trainer.state.fn != "fit" else None),
            "seed": self.seed,
            "devices": trainer.world_size,
        }
        return robustness(tally.accuracy.counts(), tally.attacks, tally.seconds, sizes, about)

    def _leave(self, trainer: Trainer, tally: Tally, report: dict[str, Any], directory: Path, suffix: str) -> None:
        write_json(report, directory / f"robustness{suffix}.json")
        stage = "test" if trainer.testing else "val"
        epoch, last = trainer.current_epoch, trainer.current_epoch + 1 == trainer.max_epochs
        due = trainer.state.fn != "fit" or last or epoch % self.figure_every_n_epochs == 0
        if self.figure_samples and due:
            for name, examples in tally.examples.items():
                result = report["attacks"][name]
                threat = tally.attacks[name].threat
                title = f"{name} ({threat.norm} {threat.eps:.4g}): {result['correct']} of {report['n']} correct"
                figure = adversarial_grid(examples, title)
                save_figure(trainer, figure, f"{stage}-{name}{suffix}", directory)
        if trainer.state.fn != "fit":
            print_table(report, f"{stage}: {report['n']} samples")
