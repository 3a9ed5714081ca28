"""How a training step grows with batch, steps, classes and image size, and how fast evaluation is on two ranks.

python benchmarks/growth.py [--rounds 5] [--nets FOLDER]
"""

import io
import json
import math
import multiprocessing
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cases import dataset, trained
from harness import Arm, Row, Spread, interleave, ratio, required, timed, write
from jsonargparse import auto_cli
from lightning import Trainer
from torch import nn
from workloads import bare_step, defended, prepare

from lightning_robust.attacks import APGD, PGD
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.data import Digits
from lightning_robust.defenses import Standard
from lightning_robust.models import TorchvisionModel
from lightning_robust.modes import quiet_logits
from lightning_robust.per_sample import PerSample
from lightning_robust.threat import Threat
from lightning_robust.types import Batch


class Point(NamedTuple):
    """A step of adversarial training on random images: ResNet-18 for small images, and PGD."""

    batch: int = 8
    steps: int = 5
    classes: int = 10
    pixels: int = 32


GROWTH: dict[str, tuple[Point, ...]] = {
    "batch": tuple(Point(batch=n) for n in (4, 8, 16, 32)),
    "steps": tuple(Point(steps=n) for n in (5, 10, 20)),
    "classes": tuple(Point(classes=n) for n in (10, 100, 1000)),
    "pixels": tuple(Point(pixels=n) for n in (16, 32, 64)),
}
LINEAR, TWO_RANKS, BYTES = 1.1, 1.8, 4
"""Greatest exponent of growth with batch and steps; least speed of two ranks over one; bytes a sample."""


def step(point: Point) -> Arm:
    """An arm: one step."""
    torch.manual_seed(0)
    net = TorchvisionModel("resnet18", point.classes, small_images=True)
    x = torch.rand(point.batch, 3, point.pixels, point.pixels)
    batch = Batch(x, quiet_logits(net, x).argmax(1), torch.arange(point.batch))
    return timed(bare_step(defended("AT", net, attack=PGD(steps=point.steps)), batch))


def evaluate(net: nn.Module, ranks: int, folder: str) -> float:
    """Wall seconds of APGD on digits, dealt over so many ranks of one thread each."""
    attack = APGD(Threat("linf", 0.05), steps=100)  # a radius at which most samples stay to the end
    evaluation = RobustEvaluation({"apgd": attack}, batch_size=75, checks=0, figure_samples=0)
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


def ceiling(net: nn.Module) -> float:
    """How many times the work of one process two get done that know nothing of each other: what the machine allows."""
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
    """Measure on the CPU, print the tables, and leave them in results/growth and results/ranks.

    Args:
        rounds: all arms run once in each.
        nets: folder where the trained net is kept; by default none is.
    """
    prepare()
    points = dict.fromkeys(point for line in GROWTH.values() for point in line)
    seconds = interleave({str(point): step(point) for point in points}, rounds)
    rows: list[Row] = []
    linear = {}
    for quantity, line in GROWTH.items():
        exponent = math.nan
        for before, point in zip((None, *line), line, strict=False):
            n = getattr(point, quantity)
            spent = seconds[str(point)]
            if before is not None:
                exponent = math.log(ratio(spent, seconds[str(before)]).median) / math.log(n / getattr(before, quantity))
            row: Row = {
                "growing": quantity,
                "to": n,
                "seconds": Spread.of(spent).median,
                "exponent since the line above": "" if before is None else round(exponent, 3),
            }
            rows.append(row)
        linear[quantity] = exponent <= LINEAR
    memory = PerSample()
    memory.prepare(100_000, torch.device("cpu"))
    each = memory.nbytes / 100_000
    caption = (
        "ResNet-18, PGD; from batch 8, 5 steps, 10 classes and 32 pixels one thing grows. "
        f"IAAT remembers {each:g} bytes a sample on one rank, and one more on each of several. "
    ) + required(
        {
            f"exponents at most {LINEAR} at the end": {name: linear[name] for name in ("batch", "steps")},
            f"at most {BYTES} bytes a sample": {"IAAT": each <= BYTES},
        }
    )
    print(write("growth", "How an adversarial training step grows", rows, caption))

    with tempfile.TemporaryDirectory() as scratch:
        net = trained("digits AT", nets or Path(scratch))
        told = [(evaluate(net, 1, scratch), evaluate(net, 2, scratch), ceiling(net)) for _ in range(rounds)]
    one, two, most = zip(*told, strict=True)
    speed, limit = ratio(one, two), Spread.of(most)
    rows = [
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
