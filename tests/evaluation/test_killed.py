"""Two ranks, each in a process namespace of its own as in containers, that are killed again and again while they test.

`KILLS=20 pytest tests/evaluation/test_killed.py` kills more often.
"""

import csv
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from torch.utils.data import DataLoader

from lightning_robust.attacks import APGD, FAB, PGD, Ensemble, Square
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.data import Indexed
from lightning_robust.threat import Threat
from tests.helpers.ddp import free_port, quiet_trainer
from tests.helpers.foreign import ForeignModule, images

KILLS = int(os.environ.get("KILLS", "2"))
N = 301  # odd, so that the ranks' shares differ
RANKS = range(2)
LINF = Threat("linf", 0.06)


class Begun(Callback):
    """Leaves a file where the test begins, named after the rank, that holds the process's number."""

    def on_test_epoch_start(self, *_: Any) -> None:
        Path(f"begun-{os.environ['RANK']}").write_text(str(os.getpid()))


def evaluate(run: str) -> None:
    """What each rank runs: a test whose files go to `run`, its unfinished state to `state`."""
    warnings.filterwarnings("ignore", message="Using `DistributedSampler` with the dataloaders")
    warnings.filterwarnings("ignore", message="The 'test_dataloader' does not have many workers")
    torch.set_num_threads(1)
    stages = {"apgd": APGD(LINF, steps=8), "fab": FAB(LINF, steps=8, targets=2), "square": Square(LINF, queries=60)}
    attacks = {"ensemble": Ensemble(stages), "noise": PGD(Threat("l2", 0.3), steps=5), "fab": FAB(Threat("l2", 0.5), 8)}
    held = {"state_dir": "state", "image_memory": 5e-6}  # half of the images wait in a file
    evaluation = RobustEvaluation(attacks, batch_size=2, check_samples=0, figure_samples=0, **held)
    distributed = {"strategy": "ddp", "num_nodes": len(RANKS)} if "RANK" in os.environ else {}
    trainer = quiet_trainer(default_root_dir=run, callbacks=[Begun(), evaluation], **distributed)
    trainer.test(ForeignModule(), DataLoader(Indexed(images(N)), 4), verbose=False)


def namespace() -> list[str]:
    """The command that runs another one as the first process of a namespace, and ends it when it is killed itself."""
    alone, told = ["--pid", "--fork", "--mount-proc", "--kill-child"], "there is no `unshare`"
    for rights in ([], ["--user", "--map-root-user"]) if shutil.which("unshare") else ():
        done = subprocess.run(["unshare", *rights, *alone, "true"], capture_output=True, text=True)
        if not done.returncode:
            return ["unshare", *rights, *alone]
        told = done.stderr
    pytest.skip(f"no process namespace can be made: {told}")


class Job:
    """The two ranks of one attempt, started as torchrun would on two machines."""

    def __init__(self, folder: Path, run: str) -> None:
        self.began = [folder / f"begun-{rank}" for rank in RANKS]
        for path in self.began:
            path.unlink(missing_ok=True)
        agreed = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "TORCHELASTIC_RUN_ID": "killed"}
        agreed |= {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GLOO_SOCKET_IFNAME": "lo"}
        here = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        agreed |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(here)}
        command = [*namespace(), sys.executable, "-m", "tests.evaluation.test_killed", run]
        self.ranks = [
            subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **agreed, "RANK": str(rank), "GROUP_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in RANKS
        ]

    def wait_for_begin(self) -> None:
        """Wait until both ranks test; both are process 1 of their namespace."""
        end = time.monotonic() + 120
        while not all(path.exists() and path.read_text() for path in self.began):
            assert time.monotonic() < end, self.finish()
            assert all(rank.poll() is None for rank in self.ranks), self.finish()
            time.sleep(0.01)
        assert [path.read_text() for path in self.began] == ["1", "1"]

    def kill(self, rank: int) -> None:
        self.ranks[rank].kill()

    def finish(self) -> list[str]:
        """Wait for both, and return what they printed; its pipe closes when the last process has ended."""
        try:
            return [rank.communicate(timeout=120)[0] for rank in self.ranks]
        finally:
            for rank in self.ranks:
                rank.kill()

    @property
    def done(self) -> bool:
        return all(rank.returncode == 0 for rank in self.ranks)


def found(run: Path) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """The lines of `samples.csv`, and all numbers of `robustness.json` but the seconds."""
    with (run / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(inner) for key, inner in value.items() if key != "seconds"}
        return [timeless(inner) for inner in value] if isinstance(value, list) else value

    return rows, timeless(json.loads((run / "robustness.json").read_text()))


def assert_finished(folder: Path, run: str, printed: list[str], expected: Any) -> None:
    assert found(folder / run) == expected
    assert not list((folder / "state").rglob("*"))
    assert not [text for text in printed if "Traceback" in text or "Warning" in text], printed


@pytest.mark.slow
def test_verdicts_are_those_of_a_run_that_was_never_killed(tmp_path: Path) -> None:
    moments = random.Random(KILLS)
    whole = Job(tmp_path, "whole")
    whole.wait_for_begin()
    begun = time.monotonic()
    while whole.ranks[0].poll() is None and not (tmp_path / "whole/samples.csv").exists():
        time.sleep(0.01)
    lasts = time.monotonic() - begun
    printed = whole.finish()
    assert whole.done, printed
    expected = found(tmp_path / "whole")
    assert_finished(tmp_path, "whole", printed, expected)
    assert len({row["ensemble/broken_by"] for row in expected[0]}) > 2

    kills, finished_a_killed_one = 0, False
    for attempt in itertools.count():
        if kills >= KILLS and finished_a_killed_one:
            break
        kept, run = list((tmp_path / "state").rglob("*.pt")), f"attempt-{attempt}"
        job = Job(tmp_path, run)
        job.wait_for_begin()
        if kill := kills < KILLS or not kept:
            time.sleep(moments.uniform(0, 0.4 * lasts))
            first = moments.choice(RANKS)
            job.kill(first)
            time.sleep(moments.choice([0.0, moments.uniform(0, 0.3)]))
            job.kill(1 - first)
        printed = job.finish()
        assert not [text for text in printed if "Cannot read" in text], printed
        if (tmp_path / run / "samples.csv").exists():  # which is written last
            assert found(tmp_path / run) == expected
        if job.done:  # before it was killed, or because it was not to be
            assert_finished(tmp_path, run, printed, expected)
            resumed = any("Resuming" in text for text in printed)
            assert resumed or not kept
            finished_a_killed_one |= resumed
        else:
            assert kill, printed
            kills += 1
        print(f"{kills} kills; {len(kept)} files before, {'done' if job.done else 'killed'}")


if __name__ == "__main__":
    evaluate(sys.argv[1])
