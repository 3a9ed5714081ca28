"""SIGTERM ends a command soon, with a status and a sentence how to go on, and what was found is kept."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PGDS = [f"pgd{steps}" for steps in range(20, 60)]
SLEEPY = "tests.helpers.sleepy.SleepyConvNet"  # so that an evaluation takes minutes
EVALUATE = ["evaluate", "--data=Digits", f"--net={SLEEPY}", "--threat=linf 0.01", f"--attacks={','.join(PGDS)}"]
TEST = ["test", "--config=digits/at", f"--model.net={SLEEPY}", *(f"--evaluation.attacks.{name}=PGD" for name in PGDS)]
FIT = ["fit", "--config=digits/at", "--evaluation.fit_samples=8", "--model.net.width=4"]


def ended(folder: Path, args: list[str], begun: str) -> str:
    """Start a command, send it SIGTERM once it has left such a file, and give what it printed."""
    before = {*folder.glob(begun)}
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "lightning_robust", *args, "--trainer.accelerator=cpu"]
    with (folder / "printed").open("w+") as printed:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=printed, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + 120
            while not {*folder.glob(begun)} - before:
                assert process.poll() is None, (folder / "printed").read_text()
                assert time.monotonic() < end, (folder / "printed").read_text()
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)
        finally:
            process.kill()
            process.wait()
    told = (folder / "printed").read_text()
    assert process.returncode == 128 + signal.SIGTERM, told
    assert "Traceback" not in told
    return told


@pytest.mark.parametrize("args", [EVALUATE, TEST], ids=["evaluate", "test"])
def test_an_evaluation_ends_at_once_and_goes_on(args: list[str], tmp_path: Path) -> None:
    kept = "runs/Digits/**/unfinished/*/*.pt"
    for files in (1, 2):  # each process leaves one of its own in the same folder
        told = ended(tmp_path, args, kept)
        assert "error: SIGTERM has ended the evaluation. What it found is kept: run the same command again" in told
        assert len(list(tmp_path.glob(kept))) == files
        assert len({path.parent for path in tmp_path.glob(kept)}) == 1


def test_a_training_ends_with_its_last_checkpoint(tmp_path: Path) -> None:
    told = ended(tmp_path, FIT, "runs/*/*/*/checkpoints/last.ckpt")
    (named,) = re.findall(r"error: SIGTERM has ended the training\. .* --ckpt_path (\S+) goes on\.", told)
    assert (tmp_path / named).is_file()
