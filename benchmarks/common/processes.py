"""How the processes of a benchmark run: one thread each, silent, and several side by side."""

import logging
import multiprocessing
import os
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor

import torch
from lightning import seed_everything


def quiet(folder: str | None = None) -> None:
    """One thread, no notes or warnings; a process that is given a folder for what is temporary prints only errors."""
    torch.set_num_threads(1)
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    sys.argv = sys.argv[:1]
    if folder is not None:
        tempfile.tempdir = folder
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (for as long as the process lives)


def prepare() -> None:
    """Make this process quiet, its ranks too, and seed it."""
    quiet()
    os.environ["OMP_NUM_THREADS"] = "1"  # else Lightning would give each rank all cores
    seed_everything(0, verbose=False)


def workers(jobs: int, folder: str) -> ProcessPoolExecutor:
    """Start quiet processes that leave what is temporary in the folder."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, context, initializer=quiet, initargs=(folder,))
