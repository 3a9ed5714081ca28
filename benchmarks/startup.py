"""How long the command line and the package take until they do something: pages of help, imports, the first step.

python -m benchmarks.startup [--rounds 5]
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from lightning import Callback

from benchmarks.common.figures import bars
from benchmarks.common.tables import Row, required, write
from benchmarks.common.timing import Arm, Spread, interleave

ROOT = Path(__file__).parents[1]
BARE, IMPORT = "python, nothing imported", "import lightning_robust"
FIRST = "fit --config digits/at, to the end of the first step"
PAGES = ("--version", "--help", "fit --help", "test --help", "evaluate --help", "report --help", "recipes")
COMMAND = ("-m", "lightning_robust")
STARTS: dict[str, Sequence[str]] = {
    BARE: ("-c", "pass"),
    IMPORT: ("-c", "import lightning_robust"),
    **{page: (*COMMAND, *page.split()) for page in PAGES},
    "import torch": ("-c", "import torch"),
    "import lightning": ("-c", "import lightning"),
    FIRST: (*COMMAND, "fit", "--config=digits/at", "--trainer.callbacks+=benchmarks.startup.FirstStep"),
}
GOALS = {IMPORT: 0.1, "--version": 0.3, **{page: 3.0 for page in PAGES if page.endswith("--help")}}
"""Seconds that a start may take; of the import, beyond those of the bare interpreter."""


class FirstStep(Callback):
    """Ends the process after the first step of training."""

    def on_train_batch_end(self, *_: Any) -> None:
        """Leave without saving anything."""
        os._exit(0)


def started(words: Sequence[str], cpu: list[float]) -> Arm:
    """The arm that runs Python once in an empty folder; returns wall seconds and appends CPU seconds to `cpu`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def arm() -> float:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            out = subprocess.DEVNULL
            process = subprocess.Popen([sys.executable, *words], cwd=folder, env=environment, stdout=out, stderr=out)
            _, status, used = os.wait4(process.pid, 0)
            wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"`python {' '.join(words)}` ended with status {process.returncode}.")
        cpu.append(used.ru_utime + used.ru_stime)
        return wall

    return arm


def goals_met(wall: Mapping[str, Sequence[float]]) -> str:
    """Say which goals are met by the median."""
    met: dict[str, dict[str, bool]] = {}
    for name, goal in GOALS.items():
        beyond = wall[BARE] if name == IMPORT else [0.0] * len(wall[name])
        taken = Spread.of([a - b for a, b in zip(wall[name], beyond, strict=True)]).median
        met.setdefault(f"at most {goal:g} wall seconds", {})[name] = taken <= goal
    return required(met)


def main(rounds: int = 5) -> None:
    """Start each in a process of its own, print the table, leave it in results/startup.{csv,md,png}.

    Args:
        rounds: all are started once in each; a first round, which fills the caches of the disk, is not counted.
    """
    cpu: dict[str, list[float]] = {name: [] for name in STARTS}
    wall = interleave({name: started(words, cpu[name]) for name, words in STARTS.items()}, rounds)
    rows: list[Row] = []
    for name in STARTS:
        of_wall, of_cpu = Spread.of(wall[name]), Spread.of(cpu[name][1:])
        rows.append(
            {
                "start": name,
                "wall s": round(of_wall.median, 2),
                "wall quartiles": of_wall.quartiles(2),
                "CPU s": round(of_cpu.median, 2),
                "CPU quartiles": of_cpu.quartiles(2),
                "goal": GOALS.get(name, ""),
            }
        )
    caption = f"{goals_met(wall)} The goal of the import is beyond the bare interpreter's seconds."
    print(write("startup", "Seconds from the start of a process", rows, caption))
    bars("startup", {name: Spread.of(seconds) for name, seconds in wall.items()}, "wall seconds from the start")


if __name__ == "__main__":
    auto_cli(main)
