"""How a training step grows with batch, steps, classes and image size.

python -m benchmarks.growth [--rounds 5]
"""

import math
from typing import NamedTuple

import torch
from jsonargparse import auto_cli
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, ScalarFormatter

from benchmarks.common.processes import prepare
from benchmarks.common.tables import RESULTS, Row, required, write
from benchmarks.common.timing import Arm, Spread, interleave, ratio, timed
from benchmarks.common.training import bare_step, defended
from lightning_robust.attacks import PGD
from lightning_robust.models import TorchvisionModel
from lightning_robust.parts.per_sample import PerSample
from lightning_robust.runtime.modes import logits_no_grad
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
LINEAR, BYTES = 1.1, 4
"""Greatest exponent of growth with batch and steps, and bytes that IAAT remembers of a sample."""


def step(point: Point) -> Arm:
    """An arm: one step."""
    torch.manual_seed(0)
    net = TorchvisionModel("resnet18", point.classes, small_images=True)
    x = torch.rand(point.batch, 3, point.pixels, point.pixels)
    batch = Batch(x, logits_no_grad(net, x).argmax(1), torch.arange(point.batch))
    return timed(bare_step(defended("AT", net, attack=PGD(steps=point.steps)), batch))


def draw(seconds: dict[str, list[float]]) -> None:
    """Leave results/growth.png: seconds of a step against each quantity, beside growth as its power 1 or 2."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (quantity, line) in zip(figure.subplots(1, len(GROWTH), sharey=True), GROWTH.items(), strict=True):
        to = [getattr(point, quantity) for point in line]
        spent = [Spread.of(seconds[str(point)]) for point in line]
        sides = [[s.median - s.low for s in spent], [s.high - s.median for s in spent]]
        axes.errorbar(to, [s.median for s in spent], sides, marker="o", ms=4, capsize=2, color="tab:blue")
        power = 2 if quantity == "pixels" else 1
        grown = [spent[0].median * (n / to[0]) ** power for n in to]
        if quantity != "classes":
            axes.plot(to, grown, color="tab:red", lw=1, ls="--", label="square" if power == 2 else "linear")
            axes.legend(loc="lower right")
        axes.set(xscale="log", yscale="log", xlabel="pixels a side" if quantity == "pixels" else quantity)
        axes.set_xticks(to, [str(n) for n in to])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("seconds of a step")
    figure.savefig(RESULTS / "growth.png", dpi=110)


def main(rounds: int = 5) -> None:
    """Measure on the CPU, print the table, and leave it in results/growth.{csv,md,png}.

    Args:
        rounds: all arms run once in each.
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
    draw(seconds)


if __name__ == "__main__":
    auto_cli(main)
