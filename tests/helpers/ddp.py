"""Several ranks on one machine, as `torchrun` would start them, but forked: a tenth of a second instead of ten."""

import faulthandler
import multiprocessing
import os
import signal
import socket
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy

_FOLDER = tempfile.TemporaryDirectory(prefix="trainers-")
"""Holds the folders of trainers that were given none, until the process ends."""


def run_ddp(fn: Callable[[int], Any], ranks: int = 2, timeout: float = 60.0) -> list[Any]:
    """Call `fn(rank)` in `ranks` forked processes and return what each returned.

    Inside, `ddp_trainer()` joins the processes, as does `process_group()` without Lightning. The environment of the
    calling process is not touched; `fn` may be a closure. Results travel through files.

    Raises:
        AssertionError: with each failed rank's traceback, or, if the ranks do not end in time, with the stacks of those
            that are then killed.
    """
    port = free_port()
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        processes = [fork.Process(target=_rank, args=(fn, rank, ranks, port, folder)) for rank in range(ranks)]
        with warnings.catch_warnings():
            # from Python 3.12 on, a process with threads is warned of forking; the children use none of them
            warnings.filterwarnings("ignore", message=".*use of fork.*", category=DeprecationWarning)
            for process in processes:
                process.start()
        failed = _wait(processes, timeout)
        errors = [path.read_text() for path in sorted(Path(folder).glob("*.error"))]
        stacks = {path.stem: path.read_text() for path in sorted(Path(folder).glob("*.stack"))}
        errors += [f"rank {rank}: {stack}" for rank, stack in stacks.items() if stack]
        if failed or errors:
            raise AssertionError("\n".join([failed, *errors]))
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(ranks)]


def ddp_trainer(ranks: int = 2, strategy: dict[str, Any] | None = None, **kwargs: Any) -> Trainer:
    """A quiet trainer over the ranks of `run_ddp`; `strategy` holds DistributedDataParallel's settings."""
    ddp = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=30), **(strategy or {}))
    return quiet_trainer(strategy=ddp, devices=ranks, **kwargs)


@contextmanager
def process_group() -> Iterator[None]:
    """Join the ranks of `run_ddp` without Lightning."""
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=30))
    try:
        yield
        torch.distributed.barrier()  # gloo fails on a rank that still connects when another leaves
    finally:
        torch.distributed.destroy_process_group()


def quiet_trainer(**kwargs: Any) -> Trainer:
    """A trainer on the CPU that prints nothing and writes to a temporary folder of its own, unless asked."""
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    kwargs.setdefault("default_root_dir", tempfile.mkdtemp(dir=_FOLDER.name))
    return Trainer(**{"accelerator": "cpu", "devices": 1, **dict.fromkeys(off, False), **kwargs})


def _rank(fn: Callable[[int], Any], rank: int, ranks: int, port: int, folder: str) -> None:
    # open until the process ends
    stack = Path(folder, f"{rank}.stack").open("w")  # noqa: SIM115
    faulthandler.register(signal.SIGUSR2, file=stack)
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), NODE_RANK="0")
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(ranks))
    try:
        torch.save(fn(rank), Path(folder, f"{rank}.pt"))
    except BaseException:
        Path(folder, f"{rank}.error").write_text(f"rank {rank}: {traceback.format_exc()}")
        os._exit(1)  # the other ranks may be waiting for this one: no collective clean-up
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _wait(processes: list[Any], timeout: float) -> str:
    """Wait until all have ended, or one failed, or time is out; kill what is left; say what went wrong.

    Those that are late write their stacks first.
    """
    end = time.monotonic() + timeout
    while any(p.is_alive() for p in processes) and time.monotonic() < end and not any(p.exitcode for p in processes):
        time.sleep(0.01)
    late = [i for i, process in enumerate(processes) if process.is_alive()]
    codes = [process.exitcode for process in processes]
    if late and not any(codes):
        for i in late:
            os.kill(processes[i].pid, signal.SIGUSR2)
        time.sleep(0.5)  # until the stacks are written
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()
    if any(codes):
        return f"exit codes of the ranks: {codes}"
    return f"ranks {late} had not ended after {timeout:g} s" if late else ""


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
