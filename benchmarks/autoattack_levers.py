"""What each lever gives to AutoAttack's standard version: ours without any, with one more each time, and torchattacks'.

python -m benchmarks.autoattack_levers [--samples 450] [--colour_samples 64] [--nets FOLDER]
"""

import copy
import os
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from jsonargparse import auto_cli
from torch import Tensor

from benchmarks.common.autoattacks import ROUNDS, Attack, Whole, ours, torchattacks
from benchmarks.common.cases import RADII, Case, NetName, dataset, nets_and_workers, percent, trained
from benchmarks.common.figures import bars
from benchmarks.common.tables import Row, required, write
from benchmarks.common.timing import Spread, interleave, ratio
from lightning_robust.runtime import modes
from lightning_robust.threat import Norm

NETS: tuple[NetName, ...] = ("digits AT", "colours AT")
POOL = 128
"""Rows at a time (`batch_size`), whatever the loader's batches."""
LEVERS = (
    "samples leave, survivors and targets fill the batch",
    "faster batch norms",
    f"batches of {POOL}",
    "channels_last",
    "bf16",
)
"""The first is built in; each of the others comes on top of those before it."""
RECOMMENDED = {"digits AT": "channels_last", "colours AT": "bf16"}
"""The last lever to take: bf16 pays where the arithmetic outweighs the calls."""
PEER, POOLED = "torchattacks", f"torchattacks, batches of {POOL}"
TIMES = 2.0
"""How many times as long torchattacks is to take as ours with the levers recommended."""


def with_levers(case: Case, count: int) -> Attack:
    """Ours with the first so many of the levers."""
    norms, pool, ordered, half = (lever in LEVERS[:count] for lever in LEVERS[1:])
    net = copy.deepcopy(case.net).to(memory_format=torch.channels_last if ordered else torch.contiguous_format)
    attack = ours(case, net, bf16=half, batch_size=POOL if pool else None)

    def run(x: Tensor, y: Tensor, index: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last) if ordered else x
        with nullcontext() if norms else patch.object(modes, "fast_bn_backward", lambda modules: nullcontext()):
            return attack(x, y, index)

    return run


def measure(name: NetName, norm: Norm, samples: int, folder: Path) -> tuple[list[Row], dict[str, Spread]]:
    """The lines of one net and norm."""
    x, y = dataset(name, train=False)
    case = Case(name, trained(name, folder), norm, RADII[name][norm], x[:samples], y[:samples])
    arms = {PEER: Whole(case, torchattacks(case, case.net))}
    if arms[PEER].parts[1].stop > case.batch:
        arms[POOLED] = Whole(case, torchattacks(case, case.net, batch_size=POOL))
    for count, lever in enumerate(LEVERS, 1):
        arms[f"+ {lever}" if count > 1 else f"ours: {lever}"] = Whole(case, with_levers(case, count))
    seconds = interleave(arms, ROUNDS[name.split()[0]])
    rows: list[Row] = []
    over: dict[str, Spread] = {}
    before = ""
    for line, arm in arms.items():
        whole = ratio(seconds[PEER], seconds[line])
        row: Row = {
            "net": name,
            "norm": norm,
            "": line,
            "seconds": round(sum(seconds[line]), 1),
            "torchattacks / this": whole.median,
            "quartiles": whole.quartiles(2),
            "line above / this": ratio(seconds[before], seconds[line]).median if line.startswith("+") else "",
            "robust": percent(arm.verdicts),
            "same verdict as torchattacks": percent(arm.verdicts == arms[PEER].verdicts),
        }
        rows.append(row)
        before = line
        if line != PEER:
            over[f"{name}, {norm}: {line}"] = whole
    return rows, over


def main(
    samples: int = 450, colour_samples: int = 64, jobs: int = os.cpu_count() or 1, nets: Path | None = None
) -> None:
    """Measure on the CPU, print the table, and leave it in results/autoattack_levers.{csv,md,png}.

    Args:
        samples: digits that are attacked, in three rounds.
        colour_samples: coloured digits that are, in two.
        jobs: nets and norms at a time, each of one thread.
        nets: folder where the trained nets are kept; by default none is.
    """
    cases = [(name, norm) for name in NETS for norm in RADII[name]]
    with nets_and_workers(NETS, nets, jobs) as (folder, pool):
        sizes = [colour_samples if name == "colours AT" else samples for name, _ in cases]
        found = list(pool.map(measure, *zip(*cases, strict=True), sizes, [folder] * len(cases)))
    leave([row for lines, _ in found for row in lines], {k: v for _, over in found for k, v in over.items()})


def leave(rows: list[Row], over: dict[str, Spread]) -> None:
    """Write the table and the figure, and print the table."""
    chosen = [row for row in rows if row[""] == f"+ {RECOMMENDED[str(row['net'])]}"]
    fast = {f"{row['net']}, {row['norm']}": float(row["torchattacks / this"]) >= TIMES for row in chosen}
    same = {f"{row['net']}, {row['norm']}": float(row["same verdict as torchattacks"]) >= 99 for row in chosen}
    caption = (
        "APGD-CE 100 steps, APGD-T and FAB-T 9 x 100, Square 5000 queries, in batches of at most 50 digits or 32 "
        "coloured ones where nothing else is said; seconds of all samples together. Recommended: all on colours, all "
        "but bf16 on digits. "
        + required({f"{TIMES:g} times as fast as recommended": fast, "with 99 % the same verdicts": same})
    )
    print(write("autoattack_levers", "What each lever gives to AutoAttack's standard version", rows, caption))
    bars("autoattack_levers", over, "times as fast as torchattacks", TIMES)


if __name__ == "__main__":
    auto_cli(main)
