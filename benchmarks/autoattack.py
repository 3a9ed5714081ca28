"""AutoAttack's standard version here, in torchattacks and as its authors wrote it: verdicts and time.

python -m benchmarks.autoattack [--samples 450] [--colour_samples 64] [--alone 24] [--jobs 2] [--nets FOLDER]
"""

import os
from concurrent.futures import Future, as_completed
from pathlib import Path

import torch
from jsonargparse import auto_cli
from torch import Tensor

from benchmarks.common.autoattacks import (
    OTHERS,
    QUERIES,
    ROUNDS,
    STAGES,
    STEPS,
    TARGETS,
    Metered,
    Whole,
    authors,
    available,
    ours,
)
from benchmarks.common.cases import CLASSES, RADII, Case, NetName, dataset, nets_and_workers, percent, trained
from benchmarks.common.tables import Row, write
from benchmarks.common.timing import interleave, ratio
from lightning_robust.models import SmallConvNet
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.threat import Norm

SEEDS = 2
"""Of the authors' attacks where they run alone; FAB-T draws nothing."""


def whole_version(case: Case, others: list[str]) -> list[Row]:
    """One line for each precision of our search: accuracies, agreement, and times in one interleaved run."""
    metered = Metered(case.net).eval()
    arms = {"ours": Whole(case, ours(case, metered), metered)}
    if case.name == "colours AT":
        like = SmallConvNet(CLASSES, 3, width=32)
        like.load_state_dict(case.net.state_dict())
        half = Metered(like.eval().to(memory_format=torch.channels_last)).eval()
        arms["bf16"] = Whole(case, ours(case, half, bf16=True), half)
    arms.update({name: Whole(case, OTHERS[name](case, case.net)) for name in others})
    seconds = interleave(arms, ROUNDS[case.name.split()[0]])
    clean = percent(logits_no_grad(case.net, case.x).argmax(1) == case.y)
    luck = None
    if "authors" in others:  # how much of a difference is luck
        again = Whole(case, authors(case, case.net, seed=1))
        for _ in again.parts:
            again()
        luck = percent(again.verdicts == arms["authors"].verdicts)
    rows: list[Row] = []
    for search in ("ours", "bf16"):
        if search not in arms:
            continue
        mine, spent = arms[search], seconds[search]
        row: dict[str, str | float] = {
            "net": case.name,
            "norm": case.norm,
            "eps": round(case.eps, 4),
            "samples": len(case.x),
            "search": "fp32" if search == "ours" else "bf16",
            "clean": clean,
            "robust": percent(mine.verdicts),
        }
        row.update({f"robust, {name}": percent(arms[name].verdicts) for name in others})
        row.update({f"same verdict, {name}": percent(arms[name].verdicts == mine.verdicts) for name in others})
        if luck is not None:
            row["authors' two seeds"] = luck
        row["seconds"] = round(sum(spent), 1)
        row["outside the net"] = round(100 * sum(mine.outside) / sum(mine.wall), 1)
        for name in others:
            over = ratio(seconds[name], spent)
            row[f"{name} / ours"] = round(over.median, 2)
            row[f"quartiles, {name}"] = over.quartiles(2)
        rows.append(row)
    return rows


def alone(case: Case, others: list[str], n: int) -> list[Row]:
    """One line for each attack by itself, on the first n samples; the authors' with several seeds."""
    rows: list[Row] = []
    part = Case(case.name, case.net, case.norm, case.eps, case.x[:n], case.y[:n])
    for stage in STAGES:
        row: dict[str, str | float] = {"net": case.name, "norm": case.norm, "attack": stage, "samples": len(part.x)}
        first: dict[str, Tensor] = {}
        for name, make in {"ours": ours, **{name: OTHERS[name] for name in others}}.items():
            seeds = SEEDS if name == "authors" and stage != "fab-t" else 1
            runs = [
                part.robust(make(part, part.net, seed, stage)(part.x, part.y, torch.arange(len(part.x))), slice(None))
                for seed in range(seeds)
            ]
            accuracies = [percent(run) for run in runs]
            row[f"robust, {name}"] = accuracies[0]
            if name == "authors":
                row["authors over seeds"] = f"{min(accuracies):g} to {max(accuracies):g}"
            first[name] = runs[0]
        row.update({f"same verdict, {name}": percent(first[name] == first["ours"]) for name in others})
        rows.append(row)
    return rows


def measure(
    name: NetName, norm: Norm, samples: int, first: int, folder: Path, others: list[str]
) -> tuple[list[Row], list[Row]]:
    """Both tables' lines for one net and norm."""
    x, y = dataset(name, train=False)
    case = Case(name, trained(name, folder), norm, RADII[name][norm], x[:samples], y[:samples])
    return whole_version(case, others), alone(case, others, first)


def misses(rows: list[Row], others: list[str]) -> list[str]:
    """The requirements that the whole version does not meet."""
    out = []
    for row in rows:
        where = f"{row['net']}, {row['norm']}, {row['search']}"
        n, colours = int(row["samples"]), row["net"] == "colours AT"
        fast = 1.0 if colours and row["search"] == "fp32" else 1.5
        for name in others:
            over = (float(row["robust"]) - float(row[f"robust, {name}"])) * n / 100
            if not (over <= n / 1000 + 1 and abs(over) <= max(0.003 * n, 1) + 0.01):
                out.append(f"{where}: robust accuracy {over:+.0f} samples from {name}'s")
            if float(row[f"same verdict, {name}"]) < 99:
                out.append(f"{where}: {row[f'same verdict, {name}']} % the same verdicts as {name}'s")
        if "torchattacks" in others and float(row["torchattacks / ours"]) < fast:
            out.append(f"{where}: {row['torchattacks / ours']} times as fast as torchattacks, to be {fast}")
        if colours and row["search"] == "fp32" and float(row["outside the net"]) >= 15:
            out.append(f"{where}: {row['outside the net']} % of the time outside the net, to be below 15")
    return out


def leave(rows: list[Row], single: list[Row], others: list[str]) -> str:
    """Write both tables, and return them."""
    missed = misses(rows, others)
    caption = (
        f"APGD-CE {STEPS} steps, APGD-T and FAB-T {TARGETS} x {STEPS}, Square {QUERIES} queries; accuracies, shares of "
        "samples and of our seconds in percent; seconds of all samples together; quartiles over rounds, each on its "
        "own part of the samples. Required: robust accuracy within 0.3 points or one sample, 99 % the same verdicts, "
        "1.5 times as fast as torchattacks (colours in fp32: as fast, and less than 15 % outside the net's passes). "
        + ("Not met: " + "; ".join(missed) + "." if missed else "All met.")
    )
    whole = write("autoattack", "AutoAttack's standard version: verdicts and time, side by side", rows, caption)
    caption = "Robust accuracies in percent; those of the authors with seed 0, and the range over several seeds."
    return whole + write("autoattack_alone", "AutoAttack's four attacks, each alone", single, caption)


def main(
    samples: int = 450,
    colour_samples: int = 64,
    alone: int = 24,
    colour_alone: int = 6,
    jobs: int = os.cpu_count() or 1,
    nets: Path | None = None,
) -> None:
    """Measure, print the tables, and leave them in results/autoattack.{csv,md} and autoattack_alone.{csv,md}.

    Args:
        samples: digits that the whole version attacks, in three rounds.
        colour_samples: coloured digits that it attacks, in two.
        alone: digits on which the attacks run one by one.
        colour_alone: coloured digits on which they do.
        jobs: nets and norms at a time, each of one thread.
        nets: folder where the trained nets are kept; by default none is.
    """
    others, tables = available(), ""
    cases: list[tuple[NetName, Norm]] = [(name, norm) for name in RADII for norm in RADII[name]]
    with nets_and_workers(RADII, nets, jobs) as (folder, pool):
        done: dict[tuple[NetName, Norm], Future[tuple[list[Row], list[Row]]]] = {}
        for name, norm in reversed(cases):  # the longest first
            colours = name == "colours AT"
            sizes = (colour_samples, colour_alone) if colours else (samples, alone)
            done[name, norm] = pool.submit(measure, name, norm, *sizes, folder, others)
        for future in as_completed(done.values()):
            future.result()
            results = [done[case].result() for case in cases if done[case].done()]
            print(f"{len(results)} of {len(cases)} done", flush=True)
            tables = leave(
                [row for rows, _ in results for row in rows], [row for _, rows in results for row in rows], others
            )
    print(tables)


if __name__ == "__main__":
    auto_cli(main)
