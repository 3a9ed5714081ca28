"""The commands that run a trainer: `lightning-robust fit|validate|test|predict|plan --config <recipe>`."""

import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from jsonargparse import Namespace
from lightning import Callback, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

import lightning_robust.attacks
import lightning_robust.models  # noqa: F401  (imported, so that short class names resolve)
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.callbacks.best_report import best_saver
from lightning_robust.callbacks.run_folder import run_folder
from lightning_robust.cli.absent_teacher import without_teacher
from lightning_robust.cli.checkpoint_path import check_path
from lightning_robust.cli.checkpoints import AtomicCheckpointIO, LastCheckpoint, newest_checkpoint
from lightning_robust.cli.config_file import ConfigFile
from lightning_robust.cli.devices import fitting_ddp, launched_rank, processes
from lightning_robust.cli.failed_start import leaves_nothing_if_it_fails
from lightning_robust.cli.held_out import check_held_out
from lightning_robust.cli.loggers import run_loggers
from lightning_robust.cli.monitors import check_monitors, is_unknown_monitor
from lightning_robust.cli.net_from_data import build, fill_net
from lightning_robust.cli.parser import Parser
from lightning_robust.cli.plan import RobustTrainer
from lightning_robust.cli.predictions import Predictions
from lightning_robust.cli.recipe_statistics import replace_statistics
from lightning_robust.cli.run_name import run_name
from lightning_robust.cli.save_config import SaveRunConfig
from lightning_robust.cli.terminal import how_to_test, with_terminal
from lightning_robust.cli.usage import version_text
from lightning_robust.data import RobustDataModule
from lightning_robust.defenses import Defense
from lightning_robust.defenses.accumulation import most_batches
from lightning_robust.utils.files import inner_folder
from lightning_robust.utils.messages import describe_error


class RobustCLI(LightningCLI):
    """LightningCLI over defenses and data modules, with robust evaluation and checkpointing always on.

    Each run has a folder of its own, `<default_root_dir or runs>/<data>/<model>/<run>/`. Under SLURM and torchrun its
    name is made of the job and the config, so that a restarted job finds its own checkpoint again and no other job's.
    Whatever the loggers, it holds `config.yaml`, `metrics.csv`, `robustness.json`, figures and checkpoints.

    Args:
        args: the words after the command's name; by default the process's own.
    """

    def __init__(self, args: list[str] | None = None) -> None:
        words = sys.argv[1:] if args is None else args
        self._commands = {name: skip for name, skip in self.subcommands().items() if [name] == words[:1]}
        self._gives_statistics = any(word.partition("=")[0].endswith((".mean", ".std")) for word in words)
        with tempfile.TemporaryDirectory() as self._scratch:
            super().__init__(
                Defense,
                RobustDataModule,
                trainer_class=RobustTrainer,
                subclass_mode_model=True,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                seed_everything_default=0,
                save_config_callback=SaveRunConfig,
                parser_class=Parser,
                args=args,
            )

    def init_parser(self, **kwargs: Any) -> Parser:
        """Build a parser whose `--config` knows the recipes."""
        parser = Parser(prog="lightning-robust", dump_header=[version_text()], **kwargs)
        parser.add_argument("-c", "--config", action=ConfigFile, help="Recipe by name, or path of a YAML file.")
        return parser

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's subcommands, and `plan`."""
        return {**LightningCLI.subcommands(), "plan": {"model", "datamodule"}}

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """Add the command that was asked for, or all if none stands first: each takes a third of a second."""
        everything = self.subcommands()
        self.subcommands = lambda: self._commands or everything  # type: ignore[method-assign]
        super()._add_subcommands(parser, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give evaluation and checkpointing their own sections in a config."""
        parser.add_lightning_class_args(RobustEvaluation, "evaluation")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/worst_acc",
                "checkpoint.mode": "max",
                "checkpoint.save_last": True,
                "checkpoint.filename": "best-epoch{epoch:03d}-worst_acc{val/worst_acc:.4f}",
                "checkpoint.auto_insert_metric_name": False,
            }
        )

    def _parse_ckpt_path(self) -> None:
        """Check that the checkpoint is there; unlike Lightning, let the config win over what the file stored."""
        command = self.config.get("subcommand")
        if command is None:
            return
        for section in ("trainer", "evaluation", "checkpoint"):
            if not isinstance(given := self.config[command][section], Namespace):
                self.parser.error(f"The section {section} must hold settings, got {given!r}.")
        if command == "plan":
            return
        check_path(command, self.config[command], self.parser.error)

    def instantiate_classes(self) -> None:
        """Build everything, the data first; what a constructor refuses is reported as a misspelt key is."""
        config = self.config[self.subcommand]
        try:
            data, net = build(RobustDataModule, config.data), config.get("model.init_args.net")
            training = self.subcommand in ("fit", "plan")
            if not training:
                without_teacher(config.model)
            elif isinstance(teacher := config.get("model.init_args.teacher"), Namespace):
                check_held_out(teacher, data, trains_on=True)
            if isinstance(net, Namespace) and not config.get("ckpt_path"):
                check_held_out(net, data, trains_on=training)
                if training and not self._gives_statistics:
                    replace_statistics(net, config.data, data, config.get("config") or ())
            fill_net(net, data)
            fill_net(config.get("model.init_args.teacher"), data)
            super().instantiate_classes()
        except (ImportError, TypeError, ValueError) as error:
            self.parser.error(str(error), error)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with a folder of its own."""
        given, evaluation = (self._get(self.config_init, section) for section in ("trainer", "evaluation"))
        root = Path(given["default_root_dir"] or "runs").expanduser()
        place = Path(root, type(self.datamodule).__name__, type(self.model).__name__)
        run = self._run_name(place)
        planning = self.subcommand == "plan"  # leaves nothing
        if planning:
            place = Path(self._scratch)
            kwargs.update(enable_progress_bar=False, enable_model_summary=False)
        bare = given["barebones"]
        if bare:
            kwargs["log_every_n_steps"] = None  # a recipe's, which Lightning refuses there
        else:
            kwargs |= with_terminal({**given, **kwargs})
        added = kwargs.get("callbacks", given["callbacks"]) or []
        callbacks = [added] if isinstance(added, Callback) else list(added)
        folder = place / run
        kwargs["default_root_dir"] = str(folder)
        evaluation.state_dir = evaluation.state_dir or str(
            inner_folder(place, "unfinished")
        )  # found again by the next run
        n = processes(given["accelerator"], given["devices"], given["num_nodes"])
        if given["strategy"] == "auto" and n > 1:
            kwargs["strategy"] = fitting_ddp(most_batches(given["accumulate_grad_batches"], callbacks))
        if not given["fast_dev_run"] and not bare:
            kwargs["logger"] = run_loggers(None if planning else given["logger"], folder)
        if self.subcommand == "predict":
            kwargs["callbacks"] = [*callbacks, Predictions()]
        best = self._get(self.config_init, "checkpoint")
        if self.datamodule.val_size == 0 and str(best.monitor).startswith("val"):
            best.monitor, best.filename = None, "epoch{epoch:03d}"  # nothing is held out to choose by
        last = best.save_last is True
        best.save_last = None if last else best.save_last
        if bare or given["enable_checkpointing"] is False:
            self._parser(self.subcommand).callback_keys.remove("checkpoint")
        trainer: Any = super().instantiate_trainer(**kwargs)
        trainer.run_folder = folder
        # the best checkpoint is what the config's own section says: it comes before others that were added
        trainer.callbacks.sort(key=lambda callback: isinstance(callback, ModelCheckpoint) and callback is not best)
        for checkpoint in trainer.checkpoint_callbacks:
            if isinstance(checkpoint, ModelCheckpoint) and (planning or checkpoint.dirpath is None):
                checkpoint.dirpath = str(inner_folder(folder, "checkpoints"))
        if last and trainer.checkpoint_callbacks:
            trainer.callbacks.append(LastCheckpoint(best))
        if self.subcommand == "fit":
            schedule = self.config[self.subcommand].get("model.init_args.scheduler.init_args.monitor")
            check_monitors(trainer, self.model, self.datamodule, schedule)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # nobody asked for another
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        return cast(Trainer, trainer)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the command; a start that fails leaves no folder."""
        trainer, folder, void = self.trainer, Path(self.trainer.default_root_dir), False
        with leaves_nothing_if_it_fails(folder, lambda: trainer.global_step > 0, lambda: void):
            self._make(folder)
            try:
                super()._run_subcommand(subcommand)
            except SIGTERMException as ended:
                last = folder / "checkpoints/last.ckpt"
                if ended.code is None and subcommand == "fit" and last.exists():
                    ended.code = f"SIGTERM has ended the training. The same command with --ckpt_path {last} goes on."
                raise
            except (MisconfigurationException, RuntimeError) as error:
                void = is_unknown_monitor(error) and not any(folder.rglob("*.ckpt"))
                if "Error(s) in loading state_dict" not in str(error):
                    raise
                detail = str(error).splitlines()[1].strip().rstrip(".")
                raise ValueError(
                    f"The checkpoint's weights do not fit the config's net ({detail}): use the config.yaml of its run."
                ) from error

    def _make(self, folder: Path) -> None:
        """Make the run's folder, so that one that cannot be written is refused before the work is done."""
        if launched_rank() or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"The run's folder {folder} cannot be made ({describe_error(error)}) Give another "
                "--trainer.default_root_dir."
            ) from error

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Return the arguments of the trainer's method; a job that restarts resumes from its newest checkpoint."""
        given = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand == "fit":
            given["ckpt_path"] = newest_checkpoint(self.trainer, given["ckpt_path"])
        return given

    def before_validate(self) -> None:
        """Leave the table to `RobustEvaluation`, which prints its own."""
        self.config_init[self.subcommand]["verbose"] = False

    before_test = before_validate

    def before_predict(self) -> None:
        """Keep no logits in memory: `Predictions` writes what is left of them."""
        if self.config_init[self.subcommand]["return_predictions"] is None:
            self.config_init[self.subcommand]["return_predictions"] = False

    def after_fit(self) -> None:
        """Say where the best checkpoint lies and how to test it."""
        best, config = best_saver(self.trainer), run_folder(self.trainer) / "config.yaml"
        if best is None or not best.best_model_path or not self.trainer.is_global_zero:
            return
        score = "" if best.best_model_score is None else f" ({best.monitor} {float(best.best_model_score):.4f})"
        which = "Last" if best.monitor is None else "Best"
        print(f"\n{which} checkpoint{score}. Test it with:\n{how_to_test(config, Path(best.best_model_path))}")

    def _run_name(self, place: Path) -> str:
        parser, config = self._parser(self.subcommand), self.config[self.subcommand]
        return run_name(str(self.subcommand), place, config.get("ckpt_path"), lambda: parser.dump(config))
