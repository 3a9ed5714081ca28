"""Jobs started by torchrun, as on a cluster."""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.helpers.ddp import free_port

DRIVER = """
import os, signal, sys
from pathlib import Path
import torch
from lightning import Callback
from lightning_robust.cli.refusals import told_in_one_sentence
from lightning_robust.cli.robust_cli import RobustCLI
from lightning_robust.data import Digits
from lightning_robust.utils.batch_reader import as_batch

class SecondRank(Digits):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        given = as_batch(super().on_after_batch_transfer(batch, dataloader_idx))
        return given._replace(x=255 * given.x) if self.trainer.global_rank else given

class Dies(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        now = trainer.global_rank, trainer.current_epoch, batch_idx
        if dies and now == (1, *map(int, dies)) and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    arguments, dies = sys.argv[1:], None
    if "dies" in arguments:  # and then epoch and batch
        at = arguments.index("dies")
        arguments, dies = arguments[:at], arguments[at + 1 :]
    del sys.argv[1:]
    with told_in_one_sentence():
        cli = RobustCLI([*arguments, "--trainer.callbacks+=__main__.Dies"])
    found = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    weights = {name: value.cpu() for name, value in cli.model.state_dict().items() if name.startswith("net.")}
    radii = cli.model.radii.values if hasattr(cli.model, "radii") else torch.zeros(0)
    torch.save((found, weights, radii, cli.trainer.log_dir), f"{arguments[0]}-{os.environ['RANK']}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
"""


def named(job: str) -> list[str]:
    """A job of two processes that is found again by its name."""
    where = f"--rdzv_endpoint=127.0.0.1:{free_port()}"
    return ["--nnodes=1", "--nproc_per_node=2", "--rdzv_backend=c10d", f"--rdzv_id={job}", where]


class Host(NamedTuple):
    """Where a process runs: its network interface, its address there, and the command that enters it."""

    interface: str = "lo"
    address: str = "127.0.0.1"
    enter: tuple[str, ...] = ()


LOOPBACK = Host()


@contextmanager
def cabled() -> Iterator[list[Host]]:
    """Two network namespaces with a cable between them, as two machines; the test is skipped where none can be made."""
    ip, tag = shutil.which("ip"), uuid.uuid4().hex[:6]
    names, ends = [f"host-{tag}-{i}" for i in (0, 1)], [f"eth{tag}{i}" for i in (0, 1)]
    hosts = [Host(ends[i], f"10.77.0.{1 + i}", (str(ip), "netns", "exec", names[i])) for i in (0, 1)]
    steps = [f"netns add {name}" for name in names]
    steps.append(f"link add {ends[0]} netns {names[0]} type veth peer name {ends[1]} netns {names[1]}")
    for name, host in zip(names, hosts, strict=True):
        steps.append(f"-n {name} addr add {host.address}/24 dev {host.interface}")
        steps.extend(f"-n {name} link set {end} up" for end in (host.interface, "lo"))
    try:
        for step in steps if ip else ():
            done = subprocess.run([str(ip), *step.split()], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"ip {step}: {done.stderr}")
        if not ip:
            pytest.skip("there is no `ip` to make network namespaces with")
        yield hosts
    finally:
        for name in names if ip else ():
            subprocess.run([str(ip), "netns", "del", name], capture_output=True)


def launch(folder: Path, options: list[str], command: list[str], host: Host = LOOPBACK) -> "subprocess.Popen[str]":
    (folder / "driver.py").write_text(DRIVER)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment["GLOO_SOCKET_IFNAME"] = host.interface
    # the addresses of processes that died: https://github.com/pytorch/pytorch/issues/135712
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    environment["LIGHTNING_ROBUST_RUN"] = "fit-elsewhere"  # a run that this process may have made before
    torchrun = [*host.enter, sys.executable, "-m", "torch.distributed.run", *options, "driver.py", *command]
    return subprocess.Popen(
        torchrun, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: "subprocess.Popen[str]") -> str:
    output = ended(process)
    assert process.returncode == 0, output[-4000:]
    return output


def finish_refused(process: "subprocess.Popen[str]") -> str:
    output = ended(process)
    assert process.returncode not in (0, None), output[-4000:]
    return output


def ended(process: "subprocess.Popen[str]") -> str:
    """What it printed; a job that hangs is stopped, and its test fails."""
    try:
        return process.communicate(timeout=300)[0]
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its processes
        pytest.fail(f"hung: {process.communicate()[0][-4000:]}")


def results(folder: Path, command: str) -> list[Any]:
    return [torch.load(folder / f"{command}-{rank}.pt", weights_only=True) for rank in (0, 1)]
