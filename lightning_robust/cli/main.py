"""The command line's door: `lightning-robust fit|validate|test|predict|plan --config <recipe>.yaml`."""

import sys
import warnings
from collections.abc import Sequence

import torch.distributed

from lightning_robust.callbacks import UnsoundEvaluation
from lightning_robust.cli.devices import rank
from lightning_robust.cli.robust_cli import RobustCLI


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
            if not rank():
                print(f"error: {unsound}", file=sys.stderr)
            sys.exit(3)
        finally:
            sys.argv = argv
