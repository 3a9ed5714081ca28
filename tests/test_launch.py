"""Real launches by torchrun: two processes, two nodes, a process that dies."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ddp import free_port

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
DRIVER = """
import os, signal, sys
from pathlib import Path
import torch
from lightning import Callback
from lightning_robust.cli import RobustCLI

class Dies(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        first = not Path("died").exists()
        if trainer.global_rank == 1 and (trainer.current_epoch, batch_idx) == (1, 2) and first and "dies" in sys.argv:
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    arguments, sys.argv[1:] = [a for a in sys.argv[1:] if a != "dies"], [a for a in sys.argv[1:] if a == "dies"]
    cli = RobustCLI([*arguments, "--trainer.callbacks+=__main__.Dies"])
    found = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    weights = {name: value.cpu() for name, value in cli.model.state_dict().items() if name.startswith("net.")}
    radii = cli.model.radii.values if hasattr(cli.model, "radii") else torch.zeros(0)
    torch.save((found, weights, radii, cli.trainer.log_dir), f"{arguments[0]}-{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()
"""
QUICK = [
    *("--config", str(ROOT / "configs/digits/iaat.yaml"), "--trainer.max_epochs=3", "--model.warmup=1"),
    *("--trainer.limit_train_batches=4", "--data.batch_size=16", "--data.val_size=31", "--evaluation.figure_samples=0"),
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--evaluation.attacks.pgd50.steps=3", "--evaluation.fit_attacks.pgd10.steps=2", "--ckpt_path=last"),
]


def named(job: str) -> list[str]:
    """A job of two processes that is found again by its name."""
    where = f"--rdzv_endpoint=127.0.0.1:{free_port()}"
    return ["--nnodes=1", "--nproc_per_node=2", "--rdzv_backend=c10d", f"--rdzv_id={job}", where]


def launch(folder: Path, options: list[str], command: list[str]) -> "subprocess.Popen[str]":
    (folder / "driver.py").write_text(DRIVER)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", *options, "driver.py", *command]
    return subprocess.Popen(
        torchrun, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-4000:]
    return output


def results(folder: Path, command: str) -> list[Any]:
    return [torch.load(folder / f"{command}-{rank}.pt", weights_only=True) for rank in (0, 1)]


def assert_same(one: Any, other: Any) -> None:
    """Metrics, weights and radii, bit for bit."""
    assert one[0] == other[0]
    assert all(torch.equal(value, other[1][name]) for name, value in one[1].items())
    assert torch.equal(one[2], other[2])


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    finish(launch(folder, named("two"), ["fit", *QUICK, "--trainer.devices=2"]))
    return folder


def test_two_processes_agree(two_processes: Path) -> None:
    first, second = results(two_processes, "fit")
    assert_same(first, second)
    assert first[3] == second[3]  # one folder
    assert len(first[2]) == 1316
    assert (first[2] > 0).any()
    assert first[0]["val/clean_acc"] > 0.1


def test_they_evaluate_each_sample_once(two_processes: Path) -> None:
    (last,) = two_processes.rglob("last.ckpt")
    command = ["test", *QUICK[:-1], "--trainer.devices=2", "--ckpt_path", str(last)]
    finish(launch(two_processes, named("test"), command))
    first, second = results(two_processes, "test")
    assert_same(first, second)
    (samples,) = two_processes.rglob("samples.csv")
    assert len(samples.read_text().splitlines()) == 1 + 450


def test_two_nodes_are_two_processes(two_processes: Path, tmp_path: Path) -> None:
    two = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    command = ["fit", *QUICK[:-1], "--trainer.devices=1", "--trainer.num_nodes=2"]
    nodes = [launch(tmp_path, [*two, f"--node_rank={node}"], command) for node in (0, 1)]
    for node in nodes:
        finish(node)
    first, second = results(tmp_path, "fit")
    assert_same(first, second)
    assert_same(first, results(two_processes, "fit")[0])


def test_a_process_that_dies_ends_the_job_and_the_restart_goes_on(two_processes: Path, tmp_path: Path) -> None:
    options = named("dies")
    command = ["fit", *QUICK, "--trainer.devices=2", "dies"]
    killed = launch(tmp_path, options, command)
    output, _ = killed.communicate(timeout=300)
    assert killed.returncode != 0
    assert "SIGKILL" in output
    assert not list(tmp_path.glob("fit-*.pt"))
    finish(launch(tmp_path, options, command))
    first, second = results(tmp_path, "fit")
    assert_same(first, second)
    assert len(list(tmp_path.glob("runs/*/*/*"))) == 1  # in the same folder
    for mine, theirs in zip(first[1:3], results(two_processes, "fit")[0][1:3], strict=True):
        parts = zip(mine.values(), theirs.values(), strict=True) if isinstance(mine, dict) else [(mine, theirs)]
        assert all(torch.equal(a, b) for a, b in parts)


def test_torchrun_restarts_it_by_itself(two_processes: Path, tmp_path: Path) -> None:
    options = [*named("again"), "--max_restarts=1"]
    finish(launch(tmp_path, options, ["fit", *QUICK, "--trainer.devices=2", "dies"]))
    assert (tmp_path / "died").exists()
    first = results(tmp_path, "fit")[0]
    theirs = results(two_processes, "fit")[0]
    assert all(torch.equal(value, theirs[1][name]) for name, value in first[1].items())
