"""`lightning-robust fit|validate|test|predict|plan`: run the trainer, and give its metrics."""

import warnings

import torch.distributed
from lightning import Trainer

from lightning_robust.callbacks.best_report import best_saver
from lightning_robust.cli.robust_cli import RobustCLI
from lightning_robust.cli.terminal import calm


def run(args: list[str] | None) -> dict[str, float] | None:
    """Run `fit`, `validate`, `test`, `predict` or `plan`.

    Args:
        args: the words of the command line; by default the process's own.

    Returns:
        See `metrics`; None of `predict` and `plan`.
    """
    with warnings.catch_warnings(), calm():
        # the folder is the run's own: only its config, or the part that it resumes, was written there before
        warnings.filterwarnings("ignore", message="(Experiment logs|Checkpoint) directory .* exists and is not empty")
        # `test` has a folder of its own and saves no checkpoints
        warnings.filterwarnings("ignore", message="The dirpath has changed from")
        # the length that it takes from the run is in epochs then; recipes step it so
        warnings.filterwarnings("ignore", message="A `OneCycleLR` scheduler is using 'interval': 'epoch'")
        # a defense's numbers are logged by the epoch too, so that a short one loses none
        warnings.filterwarnings("ignore", message=r"The number of training batches \(\d+\) is smaller than the logging")
        # without logging, the numbers of a defense and of the evaluation go nowhere
        warnings.filterwarnings("ignore", message=r"You are trying to `self.log\(\)` but `Trainer\(barebones")
        # Lightning's own use of torch: https://github.com/Lightning-AI/pytorch-lightning/issues/21326
        warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
        cli = RobustCLI(args)
        # Lightning leaves gloo's group to the interpreter's exit, where its threads may abort a finished process
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return metrics(cli.trainer) if cli.subcommand in ("fit", "validate", "test") else None


def metrics(trainer: Trainer) -> dict[str, float]:
    """Return what was logged last under each name, such as `test/worst_acc`.

    After `fit` these are the last epoch's. What the best checkpoint was chosen by is added as `best/` and its name,
    `best/val/worst_acc`.

    Args:
        trainer: one that has run.
    """
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    saver = best_saver(trainer) if trainer.state.fn == "fit" else None
    if saver is not None and saver.monitor and saver.best_model_score is not None:
        found[f"best/{saver.monitor}"] = float(saver.best_model_score)
    return found
