"""Real launches by torchrun: two processes, two nodes, a process that dies."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.ddp import free_port
from tests.helpers.launch import LOOPBACK, Host, cabled, ended, finish, launch, named, results

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
QUICK = [
    *("--config", str(ROOT / "configs/digits/iaat.yaml"), "--trainer.max_epochs=3", "--model.warmup=1"),
    *("--trainer.limit_train_batches=4", "--data.batch_size=16", "--data.val_size=31", "--evaluation.figure_samples=0"),
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--evaluation.attacks.pgd50.steps=3", "--evaluation.fit_attacks.pgd10.steps=2", "--ckpt_path=last"),
]


def assert_same(one: Any, other: Any) -> None:
    """Metrics, weights and radii, bit for bit."""
    assert one[0] == other[0]
    assert all(torch.equal(value, other[1][name]) for name, value in one[1].items())
    assert torch.equal(one[2], other[2])


def assert_resumed(folder: Path) -> None:
    """In the folder of the first attempt, and from the second epoch on."""
    (run,) = folder.glob("runs/*/*/*")
    (before,) = run.glob("metrics-before-*.csv")
    epochs = [
        {line.split(",")[0] for line in file.read_text().splitlines()[1:]} for file in (before, run / "metrics.csv")
    ]
    assert epochs == [{"0"}, {"1", "2"}]


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


@pytest.mark.parametrize("hosts", [lambda: nullcontext([LOOPBACK] * 2), cabled], ids=["loopback", "namespaces"])
def test_two_nodes_are_two_processes(
    two_processes: Path, tmp_path: Path, hosts: Callable[[], AbstractContextManager[list[Host]]]
) -> None:
    command = ["fit", *QUICK[:-1], "--trainer.devices=1", "--trainer.num_nodes=2"]
    with hosts() as places:
        two = [f"--master_addr={places[0].address}", f"--master_port={free_port()}", "--nnodes=2", "--nproc_per_node=1"]
        nodes = [launch(tmp_path, [*two, f"--node_rank={node}"], command, places[node]) for node in (0, 1)]
        for node in nodes:
            finish(node)
    first, second = results(tmp_path, "fit")
    assert_same(first, second)
    assert_same(first, results(two_processes, "fit")[0])


def test_a_process_that_dies_ends_the_job_and_the_restart_goes_on(two_processes: Path, tmp_path: Path) -> None:
    options = named("dies")
    command = ["fit", *QUICK, "--trainer.devices=2", "dies", "1", "2"]
    killed = launch(tmp_path, options, command)
    output = ended(killed)
    assert killed.returncode != 0
    assert "SIGKILL" in output
    assert not list(tmp_path.glob("fit-*.pt"))
    finish(launch(tmp_path, options, command))
    first, second = results(tmp_path, "fit")
    assert_same(first, second)
    assert_resumed(tmp_path)
    for mine, theirs in zip(first[1:3], results(two_processes, "fit")[0][1:3], strict=True):
        parts = zip(mine.values(), theirs.values(), strict=True) if isinstance(mine, dict) else [(mine, theirs)]
        assert all(torch.equal(a, b) for a, b in parts)


def test_torchrun_restarts_it_by_itself(two_processes: Path, tmp_path: Path) -> None:
    options = [*named("again"), "--max_restarts=1"]
    finish(launch(tmp_path, options, ["fit", *QUICK, "--trainer.devices=2", "dies", "1", "2"]))
    assert (tmp_path / "died").exists()
    assert_resumed(tmp_path)
    first = results(tmp_path, "fit")[0]
    theirs = results(two_processes, "fit")[0]
    assert all(torch.equal(value, theirs[1][name]) for name, value in first[1].items())
