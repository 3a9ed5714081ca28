"""What is to be measured on a GPU runs whole on a CPU, keeps what it measured, and ends in time."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.gpu import part, peers, report
from benchmarks.gpu.flops import flops_of_passes, share_of_peak
from benchmarks.gpu.lines import PARTS, InapplicableError, Setup
from benchmarks.gpu.precision import SETTINGS, tf32
from benchmarks.gpu.smoke import TOY_RECIPES
from lightning_robust.attacks import PGD
from lightning_robust.models import SmallConvNet
from lightning_robust.types import Batch
from tests.helpers.files import write

ROOT = Path(__file__).parents[1]
ANYWHERE = {"no waiting", "CUDA graph of an attack"}
"""What a CPU has not."""


@pytest.mark.slow
def test_all_of_it_runs_on_a_cpu(tmp_path: Path) -> None:
    fashion = write("FashionMNIST", tmp_path)
    command = ["bash", str(ROOT / "benchmarks/gpu.sh"), "--device", "cpu", "--toy", "--results", str(tmp_path / "r")]
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--data", str(fashion)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    setup = Setup("cpu", True, tmp_path / "r", fashion)
    for name in PARTS:
        lines = setup.lines(name)
        assert lines
        for case, line in lines.items():
            not_here = case.split(":")[0] in ANYWHERE
            assert line.status == ("not applicable" if not_here else "ok"), line.told
        assert (tmp_path / "r" / f"gpu_{name}_cpu_toy.md").read_text() in done.stdout
    recipes = [case for case in setup.lines("smoke") if case.startswith("digits/")]
    assert len(recipes) == len([*(ROOT / "configs/digits").glob("*.yaml")][::TOY_RECIPES])
    assert setup.lines("smoke")["AutoAttack's verdicts, fp64"].found["differ"] == 0
    steps = setup.lines("throughput")
    assert {case.split("; ")[0] for case in steps} == {name for name in SETTINGS if "compiled" not in name}
    for line in steps.values():
        assert "failed" not in line.values
        assert line.found["ours"]["images/s"] > 0
    assert "loop as the authors'" in steps["fp32; ResNet-18; AT"].found
    assert setup.lines("fashion")["PreActResNet-18, linf 0.1"].found["epochs"] == 1


def test_wheels_are_there_as_long_as_it_runs(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$* in $PYTHONPATH"\n')
    python.chmod(0o755)
    (tmp_path / "a.whl").touch()
    command = ["bash", str(ROOT / "benchmarks/gpu.sh"), "--toy", "--wheels", str(tmp_path), "--device", "cpu"]
    environment = {**os.environ, "PYTHON": str(python), "PYTHONPATH": "mine"}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    pip, run = told.splitlines()
    site = pip.partition("--target ")[2].split()[0]
    assert "--no-index --no-deps" in pip
    assert str(tmp_path / "a.whl") in pip
    assert run == f"-m benchmarks.gpu --toy --device cpu in {ROOT}:mine:{site}"
    assert not Path(site).exists()


def test_a_gpu_that_is_not_there_is_asked_for_in_one_sentence(tmp_path: Path, capsys: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    main = part.import_module("benchmarks.gpu.__main__").main
    with pytest.raises(SystemExit, match="No GPU is at hand; with --device cpu --toy"):
        main(results=tmp_path)


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup("cpu", True, tmp_path, tmp_path)


def fake(monkeypatch: pytest.MonkeyPatch, **measures: Any) -> None:
    module: Any = ModuleType("benchmarks.gpu.smoke")

    def cases(setup: Setup, done: set[str], until: float) -> Iterator[Any]:
        yield from measures.items()

    module.cases = cases
    monkeypatch.setitem(sys.modules, "benchmarks.gpu.smoke", module)


def test_a_second_call_measures_what_is_missing(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def good() -> dict[str, Any]:
        ran.append("good")
        return {"ms": 1.5, "what": 'a, "b"'}

    def bad() -> dict[str, Any]:
        ran.append("bad")
        raise ValueError("one, two\nthree")

    def none() -> dict[str, Any]:
        ran.append("none")
        raise InapplicableError("not here")

    fake(monkeypatch, good=good, bad=bad, none=none)
    for _ in range(2):
        part.run("smoke", setup, time.time() + 60)
    assert ran == ["good", "bad", "none", "bad"]
    lines = setup.lines("smoke")
    assert [line.status for line in lines.values()] == ["ok", "failed", "not applicable"]
    assert lines["good"].found == {"ms": 1.5, "what": 'a, "b"'}
    assert lines["bad"].note.startswith("ValueError: one, two (tests/test_gpu_benchmarks.py:")
    assert Setup("cpu", False, setup.results, setup.data).lines("smoke") == {}
    _, (text,) = report.tables(setup)
    assert "| good | 1.5 |" in text
    assert "not here" in text


def test_a_case_that_breaks_the_process_does_not_take_the_others_with_it(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> dict[str, Any]:
        raise KeyboardInterrupt  # what no part catches

    fake(monkeypatch, first=dict, broken=broken, last=dict)
    with pytest.raises(KeyboardInterrupt):
        part.run("smoke", setup, time.time() + 60)
    part.run("smoke", setup, time.time() + 60, again=True)
    assert [line.told for line in setup.lines("smoke").values()] == [
        "smoke: first: ok",
        "smoke: broken: failed: the process broke down in it",
        "smoke: last: ok",
    ]


def test_a_part_ends_in_time_and_says_what_it_left_out(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow() -> dict[str, Any]:
        time.sleep(60)
        return {}

    fake(monkeypatch, quick=dict, slow=slow, last=dict)
    start = time.time()
    part.run("smoke", setup, start + 0.5)
    assert time.time() - start < 10
    assert [line.told for line in setup.lines("smoke").values()] == [
        "smoke: quick: ok",
        "smoke: slow: left out: out of time",
        "smoke: last: left out: out of time",
    ]


def test_operations_are_those_of_the_layers() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Flatten(), nn.Linear(512, 10)
    )
    first, others = 2 * 3 * 8 * 9 * 64, 2 * (8 * 9 * 64 + 512 * 10)
    flops = flops_of_passes(net, 8)
    assert flops["forward"] == first + others
    assert flops["input gradient"] == 2 * (first + others)
    assert flops["weight gradient"] == 2 * first + 3 * others  # the images need no gradient
    assert share_of_peak(98.94, "NVIDIA H200", "bf16") == pytest.approx(0.1)
    assert share_of_peak(1.0, "cpu", "bf16") == "unknown"


@pytest.mark.parametrize("method", ["AT", "TRADES"])
def test_loops_train_as_ours(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same start, same attack, same loss: the gradients agree."""
    torch.manual_seed(0)
    net = SmallConvNet(10, 3, width=4).double()
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 0.0
    x, y = torch.rand(6, 3, 8, 8, dtype=torch.float64), torch.arange(6)
    noise = torch.rand_like(x) * 8 / 255
    monkeypatch.setattr(torch, "randn_like", lambda like: noise)
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.copy_(noise))
    monkeypatch.setattr(peers, "sgd", lambda params: SimpleNamespace(zero_grad=net.zero_grad, step=lambda: None))
    {"AT": peers.at_loop, "TRADES": peers.trades_loop}[method](net, Batch(x, y))()
    theirs = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    attack = PGD(steps=10, step_size=2 / 255)
    if method == "AT":
        x_adv = attack(net, x, y, start=(x + noise).clamp(0, 1), bn="batch")
        loss = cross_entropy(net.train()(x_adv), y)
    else:
        reference = net.eval()(x).detach()
        x_adv = attack(net, x, reference, objective=divergence, start=x + 0.001 * noise)
        loss = cross_entropy(net.train()(x), y) + peers.BETA * divergence(net(x_adv), net(x)).mean()
    net.zero_grad()
    loss.backward()
    for given, p in zip(theirs, net.parameters(), strict=True):
        torch.testing.assert_close(given, p.grad, rtol=1e-8, atol=1e-10)


def divergence(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    p = reference.softmax(1)
    return (p * (p.log() - logits.log_softmax(1))).sum(1)


def test_tf32_is_as_it_was_afterwards() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with tf32(not before[1]):
        assert torch.backends.cudnn.allow_tf32 != before[1]
    assert before == (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)


def test_lines_are_plain_text(setup: Setup) -> None:
    setup.add("fashion", "epoch 1", "ok", values={"seconds": 2.0})
    (row,) = setup.path.read_text().splitlines()[1:]
    assert json.dumps({"seconds": 2.0}).replace('"', '""') in row
