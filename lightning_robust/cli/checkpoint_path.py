"""Checks of `--ckpt_path`: whether the checkpoint exists, and whether loading it may run code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lightning_robust.cli.run_name import job_name


def check_path(command: str, settings: Any, refuse: Callable[[str], Any]) -> None:
    """Refuse a checkpoint that is missing or not allowed, and load with `weights_only` unless told otherwise.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        settings: the command's, in which `weights_only` is set.
        refuse: ends the command with a sentence.
    """
    path = settings.get("ckpt_path")
    # Lightning would unpickle anything from a URL: https://github.com/Lightning-AI/pytorch-lightning/issues/21822
    if settings.get("weights_only") is None:
        settings["weights_only"] = True
    elif not settings["weights_only"] and path and _is_address(path):
        refuse(
            f"`--weights_only false` would let {path} run any code: download the file, look at where it comes "
            "from, and give its path."
        )
    if path == "last" and (job_name() is None or command != "fit"):
        refuse(
            "`--ckpt_path last` is for `fit` in a job that restarts under its own name (SLURM, torchrun): name the "
            "file."
        )
    if path == "best":
        refuse("`--ckpt_path best` does not work in a new command: give the path of the checkpoint file.")
    if path and path not in ("last", "hpc") and not _is_address(path) and not Path(path).expanduser().exists():
        refuse(f"There is no checkpoint {path!r}. Give --ckpt_path the file that `fit` named at its end.")
    if not path and command in ("validate", "test", "predict"):
        rank_zero_warn(f"No --ckpt_path was given: `{command}` runs on the net as it is built.")


def _is_address(path: str) -> bool:
    """Whether a checkpoint would be fetched, rather than read from a file of this machine."""
    return "://" in path or path == "registry" or path.startswith("registry:")
