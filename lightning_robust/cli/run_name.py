"""The name of a run's folder, by which a restarted job finds its own folder and no other's."""

import hashlib
import os
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from lightning_robust.cli.devices import launched_rank

RUN = "LIGHTNING_ROBUST_RUN"
"""Environment variable that hands the run's name to the processes that a strategy launches."""


def run_name(command: str, place: Path, ckpt_path: str | None, config: Callable[[], str]) -> str:
    """Name the run: that of the run it resumes, else one made of the job and the config, else of the time.

    Args:
        command: "fit", "validate", "test", "predict" or "plan".
        place: the folder of all runs of the same data and method.
        ckpt_path: the checkpoint that the run starts from, if any.
        config: gives the whole config as text; called only where a scheduler named the job.
    """
    folder = Path(ckpt_path or "").resolve().parent
    if command == "fit" and folder.name == "checkpoints" and folder.parents[1] == place.resolve():
        return folder.parent.name  # a resumed run goes on in its own folder
    if job := job_name():  # the same on each of its processes, whatever their environment has from elsewhere
        return f"{command}-{job}-{hashlib.sha256(config().encode()).hexdigest()[:6]}"
    if RUN in os.environ and launched_rank():
        return os.environ[RUN]
    os.environ[RUN] = f"{command}-{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"
    return os.environ[RUN]


def job_name() -> str | None:
    """Name under which this job restarts, if a scheduler (SLURM, torchrun) gave it one."""
    if SLURMEnvironment.detect():
        return f"slurm-{os.environ['SLURM_JOB_ID']}"
    job = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if job == "none" else f"torchrun-{job}"
