"""How much faster an evaluation is on two ranks than on one, when each has a core of its own.

python -m benchmarks.ranks [--rounds 5] [--nets FOLDER]
"""

import io
import json
import multiprocessing
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from lightning import Trainer
from torch import nn

from benchmarks.common.cases import dataset, trained
from benchmarks.common.processes import prepare
from benchmarks.common.tables import Row, required, write
from benchmarks.common.timing import Spread, ratio
from lightning_robust.attacks import APGD
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.data import Digits
from lightning_robust.defenses import Standard
from lightning_robust.threat import Threat

TWO_RANKS = 1.8
"""Least speed of two ranks over one."""


def evaluate(net: nn.Module, ranks: int, folder: str) -> float:
    """Wall seconds of APGD on digits, dealt over so many ranks of one thread each."""
    attack = APGD(Threat("linf", 0.05), steps=100)  # a radius at which most samples stay to the end
    evaluation = RobustEvaluation({"apgd": attack}, batch_size=75, check_samples=0, figure_samples=0)
    given: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    strategy = "ddp_fork" if ranks > 1 else "auto"
    place = Path(folder, f"{ranks}-{time.time_ns()}")
    trainer = Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=strategy,
        use_distributed_sampler=False,
        default_root_dir=place,
        callbacks=[evaluation],
        **given,
    )
    with redirect_stdout(io.StringIO()):
        trainer.test(Standard(net), Digits(), verbose=False)
    seconds: float = json.loads((place / "robustness.json").read_text())["attacks"]["apgd"]["seconds"]
    return seconds


def alone(net: nn.Module, start: Any, ends: Any) -> None:
    """An attack on digits, from when all are ready."""
    torch.set_num_threads(1)
    x, y = dataset("digits AT", train=False)
    start.wait()
    began = time.perf_counter()
    APGD(Threat("linf", 0.05), steps=100)(net, x[:150], y[:150])
    ends.put(time.perf_counter() - began)


def unrelated(net: nn.Module) -> float:
    """How many times the work of one process two get done that know nothing of each other."""
    context = multiprocessing.get_context("fork")
    spent = []
    for count in (1, 2):
        start, ends = context.Barrier(count), context.Queue()
        processes = [context.Process(target=alone, args=(net, start, ends)) for _ in range(count)]
        for process in processes:
            process.start()
        spent.append(max(ends.get() for _ in processes))
        for process in processes:
            process.join()
    return float(2 * spent[0] / spent[1])


def main(rounds: int = 5, nets: Path | None = None) -> None:
    """Measure on the CPU, print the table, and leave it in results/ranks.{csv,md}.

    Args:
        rounds: all arms run once in each.
        nets: folder where the trained net is kept; by default none is.
    """
    prepare()
    with tempfile.TemporaryDirectory() as scratch:
        net = trained("digits AT", nets or Path(scratch))
        told = [(evaluate(net, 1, scratch), evaluate(net, 2, scratch), unrelated(net)) for _ in range(rounds)]
    one, two, most = zip(*told, strict=True)
    speed, limit = ratio(one, two), Spread.of(most)
    rows: list[Row] = [
        {
            "seconds on one rank": Spread.of(one).median,
            "on two": Spread.of(two).median,
            "times as fast": speed.median,
            "quartiles": speed.quartiles(2),
            "two unrelated processes": limit.median,
            "their quartiles": limit.quartiles(2),
        }
    ]
    met = required({f"{TWO_RANKS} times as fast on two ranks": {"APGD": speed.median >= TWO_RANKS}})
    caption = f"APGD, 100 steps, on the 450 digits, wall time, each rank with one thread. {met}"
    print(write("ranks", "An evaluation on two ranks", rows, caption))


if __name__ == "__main__":
    auto_cli(main)
