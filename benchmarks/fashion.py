"""The papers' claims on 60,000 real images: recipes on Fashion-MNIST over seeds, radii and nets.

python -m benchmarks.fashion [--root FOLDER] [--seeds 3] [--jobs 2]
"""

import itertools
import os
import signal
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from benchmarks.common.claims import CAPTION, ON_FASHION, claims
from benchmarks.common.fashion import NETS, Key, Run, measure, name, timed
from benchmarks.common.frontier import frontier
from benchmarks.common.prices import Price, prices
from benchmarks.common.processes import quiet
from benchmarks.common.runs import read, run_all
from benchmarks.common.tables import RESULTS, Row, spread, write

CORE = ["standard", "at", "trades", "mart", "mail_at", "awp", "emr_standard", "emr_at", "iaat", "st", "nfgsm"]
EMR = ["standard", "emr_standard", "at", "emr_at"]
PLAN: list[tuple[str, float, list[str]]] = [
    ("StridedConvNet", 0.1, [*CORE, "emr_mart", "emr_mail_at"]),
    ("StridedConvNet", 0.1, ["st_awp", "st_rst", "rst", "rwp", "st_rwp"]),
    ("SmallConvNet", 0.1, ["at", "emr_at", "iaat", "st"]),
    ("FeedForwardNet", 0.1, EMR),
    ("StridedConvNet", 0.02, ["standard", "emr_standard"]),
    ("FeedForwardNet", 0.02, ["standard", "emr_standard"]),
    ("StridedConvNet", 0.2, [recipe for recipe in CORE if "standard" not in recipe]),
]
"""Nets, linf radii and recipes, in the order in which they are measured, each part with all seeds."""
ORDER = [*dict.fromkeys(recipe for _, _, part in PLAN for recipe in part)]
"""The recipes, in the order of the table."""


def table(runs: Iterable[Run], steps: dict[str, Price]) -> list[Row]:
    """A row for each net, radius and recipe."""
    rows: list[Row] = []
    for (net, eps, recipe), group in itertools.groupby(runs, lambda run: (run.net, run.eps, run.recipe)):
        of = list(group)
        row: Row = {
            "net": net,
            "linf eps": eps,
            "recipe": recipe,
            "clean %": spread([run.clean for run in of], 1),
            "PGD-50 %": spread([run.robust for run in of], 1),
            "AutoAttack %": spread([run.autoattack for run in of], 1),
            "effective margin": spread([run.margin for run in of], 3),
            "gap": spread([run.gap for run in of], 2),
            "step over AT's": f"{price.ratio:.2f}" if (price := steps.get(f"{net} {recipe}")) else "",
            "seeds": len(of),
        }
        rows.append(row)
    return rows


def main(
    root: str = "/usr/share/datasets/fashion-mnist",
    seeds: int = 3,
    nets: list[str] | None = None,
    recipes: list[str] | None = None,
    jobs: int = os.cpu_count() or 1,
    results: Path = RESULTS,
    max_epochs: int | None = None,
) -> None:
    """Measure what is missing, print the tables, and leave them in `results/fashion.md` and `fashion_claims.md`.

    Args:
        root: folder of the Fashion-MNIST files; Debian's package dataset-fashion-mnist has them there.
        seeds: how many, from 0 on.
        nets: of StridedConvNet, FeedForwardNet and SmallConvNet; by default all.
        recipes: names of files in configs/fashion_mnist, rst and st_rst; by default all.
        jobs: fits at a time, each of one thread; 0 for the tables of what was measured before.
        results: where everything is left: raw numbers in fashion_runs.csv and fashion_steps.csv.
        max_epochs: cut the fits short, to try the script.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the workers too, as an interrupt does
    quiet()
    wanted = [
        Key(net, recipe, eps, seed, max_epochs, root)
        for net, eps, part in PLAN
        for seed in range(seeds)
        for recipe in part
        if (nets is None or net in nets) and (recipes is None or recipe in recipes)
    ]
    configs = {key: name(key) for key in wanted}
    file = results / "fashion_runs.csv"
    known = {(run.net, run.recipe, run.eps, run.seed, run.config) for run in read(file, Run)}
    done = {key for key in wanted if (*key[:4], configs[key]) in known}
    failures = run_all(file, done, {key: key.title() for key in wanted}, measure, jobs) if jobs else []
    found = {(run.net, run.recipe, run.eps, run.seed, run.config): run for run in read(file, Run)}
    runs = [found[run] for key in wanted if (run := (*key[:4], configs[key])) in found]
    if runs:
        timed_too = priced(root)
        steps = prices(results / "fashion_steps.csv", timed_too, timed_too["StridedConvNet at"]) if jobs else {}
        report(sorted(runs, key=place), steps, results)
    if failures:
        raise SystemExit("Failed, and left out:\n" + "\n".join(failures))


def place(run: Run) -> tuple[int, float, int, int]:
    """Where a run stands in the table."""
    return [*NETS].index(run.net), run.eps, ORDER.index(run.recipe), run.seed


def priced(root: str) -> dict[str, dict[str, Any]]:
    """The configurations whose steps are timed: those of the first part of the plan."""
    net, eps, recipes = PLAN[0]
    return {f"{net} {recipe}": timed(Key(net, recipe, eps, 0, None, root)) for recipe in recipes}


def report(runs: Sequence[Run], steps: dict[str, Price], results: Path) -> None:
    """Print the tables, and leave them and the figure."""
    caption = (
        "Mean ± standard deviation over seeds, on the first 1,000 test images, of the checkpoint that was best by the "
        "recipe's own monitor on 1,000 held-out training images. PGD-50: on cross-entropy, step eps / 20, one start. "
        "AutoAttack: its version rapid, APGD-CE and APGD-T. Effective margin: mean l2 distance to the linearised net's "
        "nearest boundary. Gap: CE(x_adv) - CE(x_col) in nats, 20 steps each. Steps: batches of 128, medians of "
        "interleaved rounds, StridedConvNet at linf 0.1."
    )
    print(write("fashion", "Fashion-MNIST", table(runs, steps), caption, results))
    rows = [{"net": net, **row} for net in NETS for row in claims([run for run in runs if run.net == net], ON_FASHION)]
    if rows:
        print(write("fashion_claims", "What the papers claim, on Fashion-MNIST", rows, CAPTION, results))
    shown = [replace(run, robust=run.autoattack) for run in runs if run.net == "StridedConvNet" and run.eps >= 0.1]
    if shown:
        frontier(shown, "AutoAttack").savefig(results / "fashion.png", dpi=110)


if __name__ == "__main__":
    auto_cli(main)
