"""AutoAttack's versions fast and rapid beside standard, sample by sample: verdicts, time and passes.

python -m benchmarks.fast [--samples 280] [--colour_samples 64] [--jobs 2] [--nets FOLDER]
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jsonargparse import auto_cli
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from benchmarks.common.cases import CLASSES, RADII, NetName, dataset, kept, percent, trained
from benchmarks.common.processes import prepare
from benchmarks.common.runs import read, run_all
from benchmarks.common.tables import RESULTS, Row, required, write
from benchmarks.common.timing import now
from benchmarks.steps import Counted
from lightning_robust.attacks import AutoAttack
from lightning_robust.attacks.autoattack import Version
from lightning_robust.models import FeedForwardNet, PreActResNet, StridedConvNet, WideResNet
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Norm, Threat

ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "PreActResNet-18": lambda: PreActResNet(18, CLASSES, 1, width=4),
    "WRN-10-1": lambda: WideResNet(10, 1, CLASSES, 1),
    "StridedConvNet": lambda: StridedConvNet(CLASSES, 1, 8),
    "FeedForwardNet": lambda: FeedForwardNet(CLASSES, 1, 8, hidden=(256, 256)),
}
"""Further nets, trained on digits as that of "digits AT" is."""
NETS = [*RADII, *ARCHITECTURES]
BATCH = 128
ARMS: dict[str, tuple[Version, int]] = {
    "fast": ("fast", 0),
    "rapid": ("rapid", 0),
    "standard": ("standard", 0),
    "again": ("standard", 1),
}
"""Version and seed; how much standard differs from itself is luck."""
SAME, FASTER = 99.9, 3.0


class Key(NamedTuple):
    """A version of AutoAttack, and what it attacks."""

    net: str
    norm: Norm
    arm: str
    samples: int
    folder: str


@dataclass(frozen=True)
class Run:
    """Which samples withstood, as a text of 0 and 1; clean accuracy in percent, CPU seconds, images through the net."""

    net: str
    norm: str
    arm: str
    eps: float
    clean: float
    verdicts: str
    seconds: float
    images: int


def net_of(name: str, folder: Path) -> nn.Module:
    """The net, trained unless the folder has it."""
    if name in ARCHITECTURES:
        return kept(name, ARCHITECTURES[name], "digits AT", folder)
    return trained(name, folder)  # type: ignore[arg-type]


def measure(key: Key) -> Run:
    """Attack the first samples."""
    prepare()
    like: NetName = "digits AT" if key.net in ARCHITECTURES else key.net  # type: ignore[assignment]
    x, y = (part[: key.samples] for part in dataset(like, train=False))
    net, eps, (version, seed) = Counted(net_of(key.net, Path(key.folder))).eval(), RADII[like][key.norm], ARMS[key.arm]
    clean = logits_no_grad(net, x).argmax(1) == y
    attack = AutoAttack(Threat(key.norm, eps), version, batch_size=BATCH)
    net.images.clear()
    start = now()
    x_adv = attack(net, x, y, rng=SampleRNG(seed, torch.arange(len(x))))
    seconds, images = now() - start, net.images.total()
    left = logits_no_grad(net, x_adv).argmax(1) == y
    verdicts = "".join(str(int(each)) for each in left)
    return Run(key.net, key.norm, key.arm, eps, percent(clean), verdicts, round(seconds, 2), images)


def table(runs: dict[tuple[str, str, str], Run]) -> list[Row]:
    """A row for each net and norm of which every version was run."""
    rows: list[Row] = []
    for net, norm in dict.fromkeys((net, norm) for net, norm, _ in runs):
        if not all((net, norm, arm) in runs for arm in ARMS):
            continue
        of = {arm: runs[net, norm, arm] for arm in ARMS}
        n, standard = len(of["standard"].verdicts), of["standard"]
        row: Row = {
            "net": net,
            "norm": norm,
            "eps": standard.eps,
            "samples": n,
            "clean": standard.clean,
            **{f"robust, {arm}": round(100 * run.verdicts.count("1") / n, 2) for arm, run in of.items()},
            **{f"other verdicts, {arm}": others(standard, of[arm]) for arm in ARMS if arm != "standard"},
            **{f"standard / {arm}": round(standard.seconds / of[arm].seconds, 2) for arm in ("fast", "rapid")},
            **{f"images, standard / {arm}": round(standard.images / of[arm].images, 2) for arm in ("fast", "rapid")},
        }
        rows.append(row)
    return rows


def others(standard: Run, run: Run) -> int:
    """The number of samples on which two runs differ."""
    return sum(a != b for a, b in zip(standard.verdicts, run.verdicts, strict=True))


def more(standard: Run, run: Run) -> int:
    """How many more samples withstand than under the standard version."""
    return run.verdicts.count("1") - standard.verdicts.count("1")


def draw(rows: list[Row], results: Path) -> None:
    """Leave fast.png: verdicts that are standard's against how much faster, a point for each net and norm."""
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for arm, colour in (("fast", "tab:blue"), ("rapid", "tab:orange")):
        for norm, marker in (("linf", "o"), ("l2", "s")):
            of = [row for row in rows if row["norm"] == norm]
            same = [100 - 100 * float(row[f"other verdicts, {arm}"]) / float(row["samples"]) for row in of]
            faster = [float(row[f"standard / {arm}"]) for row in of]
            axes.scatter(faster, same, color=colour, marker=marker, alpha=0.8, label=f"{arm}, {norm}")
    again = [100 - 100 * float(row["other verdicts, again"]) / float(row["samples"]) for row in rows]
    axes.scatter([1.0] * len(again), again, color="tab:gray", marker="x", label="standard, another seed")
    axes.set(xlabel="times as fast as standard", ylabel="same verdicts as standard, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(results / "fast.png", dpi=110)


def main(
    samples: int = 280,
    colour_samples: int = 64,
    jobs: int = os.cpu_count() or 1,
    nets: Path = Path("nets"),
    results: Path = RESULTS,
) -> None:
    """Measure what is missing, print the table, and leave it in results/fast.{csv,md,png}.

    Args:
        samples: digits that each net is attacked on.
        colour_samples: coloured digits.
        jobs: attacks at a time, each of one thread; 0 for the table of what was measured before.
        nets: folder where the trained nets are kept.
        results: where everything is left: verdicts in fast_runs.csv.
    """
    norms: tuple[Norm, ...] = ("linf", "l2")
    sizes = {net: colour_samples if net.startswith("colours") else samples for net in NETS}
    wanted = [Key(net, norm, arm, sizes[net], str(nets)) for arm in ARMS for net in NETS for norm in norms]
    file = results / "fast_runs.csv"
    failures: list[str] = []
    known = {(run.net, run.norm, run.arm): run for run in read(file, Run)}
    if jobs:
        prepare()
        for net in NETS:
            net_of(net, nets)
        done = {key for key in wanted if (key.net, key.norm, key.arm) in known}
        named = {key: f"{key.net}, {key.norm}, {key.arm}" for key in wanted}
        failures = run_all(file, done, named, measure, jobs)
    known = {(run.net, run.norm, run.arm): run for run in read(file, Run)}
    runs = {case: known[case] for key in wanted if (case := (key.net, str(key.norm), key.arm)) in known}
    if rows := table(runs):
        print(write("fast", "AutoAttack's version fast beside standard", rows, caption(rows, runs), results))
        draw(rows, results)
    if failures:
        raise SystemExit("Failed, and left out:\n" + "\n".join(failures))


def caption(rows: list[Row], runs: dict[tuple[str, str, str], Run]) -> str:
    """What was measured, what it comes to in all, and whether it is what is required."""
    n = sum(int(row["samples"]) for row in rows)
    differ = {arm: sum(int(row[f"other verdicts, {arm}"]) for row in rows) for arm in ("again", "fast", "rapid")}
    cases = [(str(row["net"]), str(row["norm"])) for row in rows]
    spent = {arm: sum(runs[(*case, arm)].seconds for case in cases) for arm in ARMS}
    higher = {", ".join(case): more(runs[(*case, "standard")], runs[(*case, "fast")]) for case in cases}
    return (
        "Accuracies in percent; other verdicts: samples on which a version and standard differ; `again`: standard with "
        f"another seed. The same verdicts in all, of {n}: "
        + ", ".join(f"{arm} {100 - 100 * number / n:.2f} %" for arm, number in differ.items())
        + ". "
    ) + required(
        {
            f"fast has {SAME} % of standard's verdicts": {"all nets together": differ["fast"] <= (1 - SAME / 100) * n},
            "on no net more than one sample withstands fast alone": {case: m <= 1 for case, m in higher.items()},
            f"fast is {FASTER:g} times as fast": {
                "all nets together": spent["standard"] >= FASTER * spent["fast"],
            },
        }
    )


if __name__ == "__main__":
    auto_cli(main)
