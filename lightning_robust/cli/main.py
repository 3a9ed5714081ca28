"""The command line: `lightning-robust fit|validate|test|predict|plan --config <recipe>.yaml`."""

import hashlib
import os
import sys
import tempfile
import uuid
import warnings
from collections.abc import Sequence
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch.distributed
from lightning import Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

import lightning_robust.attacks
import lightning_robust.models  # noqa: F401  (imported, so that short class names resolve)
from lightning_robust.callbacks import RobustEvaluation, UnsoundEvaluation
from lightning_robust.cli.checkpoints import AtomicCheckpointIO, LastCheckpoint, newest_checkpoint
from lightning_robust.cli.devices import fitting_ddp, processes
from lightning_robust.cli.parser import Parser
from lightning_robust.cli.plan import RobustTrainer
from lightning_robust.data import RobustDataModule
from lightning_robust.defenses import Defense

_RUN = "LIGHTNING_ROBUST_RUN"  # hands the run's name to the processes that a strategy launches


class RobustCLI(LightningCLI):
    """LightningCLI over defenses and data modules, with robust evaluation and checkpointing always on.

    Each run has a folder of its own, `<default_root_dir or runs>/<data>/<model>/<run>/`. Under SLURM and torchrun its
    name is made of the job and the config, so that a restarted job finds its own checkpoint again and no other job's.
    """

    def __init__(self, args: list[str] | None = None) -> None:
        with tempfile.TemporaryDirectory() as self._scratch:
            super().__init__(
                Defense,
                RobustDataModule,
                trainer_class=RobustTrainer,
                subclass_mode_model=True,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                seed_everything_default=0,
                save_config_kwargs={"overwrite": True},
                parser_class=Parser,
                args=args,
            )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, and `plan`."""
        return {**LightningCLI.subcommands(), "plan": {"model", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Evaluation and checkpointing have their own sections in a config."""
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
        if command in (None, "plan"):
            return
        path = self.config[command].get("ckpt_path")
        # Lightning would unpickle anything from a URL: https://github.com/Lightning-AI/pytorch-lightning/issues/21822
        if self.config[command].get("weights_only") is None:
            self.config[command]["weights_only"] = True
        if path == "last" and (self._job() is None or command != "fit"):
            self.parser.error(
                "`--ckpt_path last` is for `fit` in a job that restarts under its own name (SLURM, torchrun): name the "
                "file."
            )
        if path and path not in ("best", "last", "hpc", "registry") and "://" not in path and not Path(path).exists():
            self.parser.error(
                f"There is no checkpoint {path!r}. Give --ckpt_path the file that `fit` named at its end."
            )
        if not path and command in ("validate", "test", "predict"):
            rank_zero_warn(f"No --ckpt_path was given: `{command}` runs on the net as it is built.")

    def instantiate_classes(self) -> None:
        """Build everything; what a constructor refuses is reported as a misspelt key is."""
        try:
            super().instantiate_classes()
        except (ImportError, TypeError, ValueError) as error:
            self.parser.error(str(error), error)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, with a folder and loggers of its own unless the config names some."""
        given = self._get(self.config_init, "trainer")
        root = Path(given["default_root_dir"] or "runs").expanduser()
        place = Path(root, type(self.datamodule).__name__, type(self.model).__name__)
        run = self._run_name(place)
        planning = self.subcommand == "plan"  # leaves nothing
        if planning:
            place = Path(self._scratch)
            kwargs.update(enable_progress_bar=False, enable_model_summary=False)
        kwargs["default_root_dir"] = str(place / run)
        evaluation = self._get(self.config_init, "evaluation")
        evaluation.state_dir = evaluation.state_dir or str(place / "unfinished")  # found again by the next run
        n = processes(given["accelerator"], given["devices"], given["num_nodes"])
        if given["strategy"] == "auto" and n > 1:
            kwargs["strategy"] = fitting_ddp(given["accumulate_grad_batches"])
        if (planning or given["logger"] in (None, True)) and not given["fast_dev_run"]:
            kwargs["logger"] = _loggers(place, run)
        best = self._get(self.config_init, "checkpoint")
        last = best.save_last is True
        best.save_last = None if last else best.save_last
        trainer: Trainer = super().instantiate_trainer(**kwargs)
        if last and trainer.checkpoint_callbacks:
            trainer.callbacks.append(LastCheckpoint(best))  # type: ignore[attr-defined]
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # nobody asked for another
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        for checkpoint in trainer.checkpoint_callbacks if planning else ():
            if isinstance(checkpoint, ModelCheckpoint):
                checkpoint.dirpath = None
        return trainer

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """What the trainer's method gets; a job that goes on does so from its newest checkpoint."""
        given = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand == "fit":
            given["ckpt_path"] = newest_checkpoint(self.trainer, given["ckpt_path"])
        return given

    def before_validate(self) -> None:
        """`RobustEvaluation` prints the table."""
        self.config_init[self.subcommand]["verbose"] = False

    before_test = before_validate

    def after_fit(self) -> None:
        """Say where the best checkpoint lies and how to test it."""
        best = self.trainer.checkpoint_callback
        config = Path(str(self.trainer.log_dir), "config.yaml")  # on every rank: the folder is broadcast
        if not isinstance(best, ModelCheckpoint) or not best.best_model_path or not self.trainer.is_global_zero:
            return
        score = "" if best.best_model_score is None else f" ({best.monitor} {float(best.best_model_score):.4f})"
        print(
            f"\nBest checkpoint{score}: {best.best_model_path}\n"
            f"Test it with:\n  lightning-robust test --config {config} --ckpt_path {best.best_model_path}"
        )

    def _run_name(self, place: Path) -> str:
        folder = Path(self._get(self.config, "ckpt_path") or "").resolve().parent
        if self.subcommand == "fit" and folder.name == "checkpoints" and folder.parents[1] == place.resolve():
            return folder.parent.name  # a resumed run goes on in its own folder
        if job := self._job():  # the same on each of its processes, whatever their environment has from elsewhere
            config = self._parser(self.subcommand).dump(self.config[self.subcommand])
            return f"{self.subcommand}-{job}-{hashlib.sha256(config.encode()).hexdigest()[:6]}"
        if _RUN in os.environ and _rank():
            return os.environ[_RUN]
        os.environ[_RUN] = f"{self.subcommand}-{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"
        return os.environ[_RUN]

    @staticmethod
    def _job() -> str | None:
        """The name under which this job restarts, if a scheduler gave it one."""
        if SLURMEnvironment.detect():
            return f"slurm-{os.environ['SLURM_JOB_ID']}"
        job = os.environ.get("TORCHELASTIC_RUN_ID", "none")
        return None if job == "none" else f"torchrun-{job}"


def _rank() -> int:
    return int(getattr(rank_zero_only, "rank", False))


def _loggers(place: Path, run: str) -> list[Logger]:
    """CSV always, TensorBoard where it is installed; a requeued job keeps what the earlier ones logged."""
    metrics = place / run / "metrics.csv"
    if metrics.exists() and not _rank():
        metrics.rename(metrics.with_name(f"metrics-before-{uuid.uuid4().hex[:4]}.csv"))
    settings: dict[str, Any] = {"save_dir": str(place), "name": "", "version": run}
    loggers: list[Logger] = [CSVLogger(**settings)]
    if find_spec("tensorboard"):
        loggers.append(TensorBoardLogger(**settings, default_hp_metric=False))
    return loggers


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; `args` instead of the process's own, to call it from Python.

    The exit status is 2 for bad arguments, and 3 if a check of the evaluation does not pass under
    `--evaluation.strict true`.
    """
    argv = sys.argv
    with warnings.catch_warnings():
        # the folder is the run's own: only its config, or the part that it resumes, was written there before
        warnings.filterwarnings("ignore", message="(Experiment logs|Checkpoint) directory .* exists and is not empty")
        # `test` has a folder of its own and saves no checkpoints
        warnings.filterwarnings("ignore", message="The dirpath has changed from")
        # Lightning's own use of torch: https://github.com/Lightning-AI/pytorch-lightning/issues/21326
        warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
        try:
            if args is not None:
                sys.argv = argv[:1]  # Lightning warns if both are there
            RobustCLI(None if args is None else list(args))
            # Lightning leaves gloo's group to the interpreter's exit, where its threads may abort a finished process
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
        except UnsoundEvaluation as unsound:
            if not _rank():
                print(f"error: {unsound}", file=sys.stderr)
            sys.exit(3)
        finally:
            sys.argv = argv
