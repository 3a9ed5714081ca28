"""Every digits recipe over seeds and radii: accuracy, margins, the price of a step, and what the papers claim.

python -m benchmarks.defenses [--recipes [at,st]] [--seeds 5] [--eps [0.15,0.3]] [--jobs 2]
"""

import itertools
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from jsonargparse import auto_cli

from benchmarks.common.claims import CAPTION, ON_DIGITS, claims
from benchmarks.common.frontier import frontier
from benchmarks.common.prices import Price, prices
from benchmarks.common.processes import quiet
from benchmarks.common.recipes import CONFIGS, VALIDATIONS, Run, adapted, identity, measure
from benchmarks.common.runs import read, run_all
from benchmarks.common.tables import RESULTS, Row, spread, write


class Key(NamedTuple):
    """What one fit is measured for."""

    recipe: str
    eps: float
    seed: int
    config: str
    epochs: int | None


def measured(key: Key) -> Run:
    """The fit's results."""
    return measure(key.recipe, key.eps, key.seed, key.epochs)


def table(runs: Iterable[Run], steps: dict[str, Price]) -> list[Row]:
    """A row for each radius and recipe."""
    rows: list[Row] = []
    for (eps, recipe), group in itertools.groupby(runs, lambda run: (run.eps, run.recipe)):
        of = list(group)
        row: Row = {
            "linf eps": eps,
            "recipe": recipe,
            "clean %": spread([run.clean for run in of], 1),
            "PGD-50 %": spread([run.robust for run in of], 1),
            "effective margin": spread([run.margin for run in of], 3),
            "step over AT's": steps[recipe].ratio,
            "its quartiles": f"{steps[recipe].low:.2f} to {steps[recipe].high:.2f}",
            "seeds": len(of),
        }
        rows.append(row)
    return rows


def main(
    recipes: list[str] | None = None,
    seeds: int = 5,
    eps: list[float] = [0.15, 0.3],  # noqa: B006  (read alone; a list shows in --help)
    jobs: int = os.cpu_count() or 1,
    results: Path = RESULTS,
    max_epochs: int | None = None,
) -> None:
    """Measure what is missing, print the tables, and leave them in `results`.

    Args:
        recipes: names of files in configs/digits; by default all.
        seeds: how many, from 0 on.
        eps: the linf radii.
        jobs: fits at a time, each of one thread.
        results: where everything is left: raw numbers in defenses_runs.csv and defenses_steps.csv.
        max_epochs: cut the fits short, to try the script.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the workers too, as an interrupt does
    quiet()
    names = recipes or sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    configs = {name: adapted(name, eps[0]) for name in names}
    steps = prices(results / "defenses_steps.csv", configs, adapted("at", eps[0]))
    wanted = [
        Key(name, radius, seed, identity(adapted(name, radius, max_epochs)), max_epochs)
        for seed in range(seeds)
        for radius in eps
        for name in names
    ]
    file = results / "defenses_runs.csv"
    done = {Key(run.recipe, run.eps, run.seed, run.config, max_epochs) for run in read(file, Run)}
    titles = {key: f"{key.recipe} at {key.eps:g}, seed {key.seed}" for key in wanted}
    failures = run_all(file, done, titles, measured, jobs)
    found = {(run.recipe, run.eps, run.seed, run.config): run for run in read(file, Run)}
    runs = [found[key[:4]] for key in wanted if key[:4] in found]
    runs.sort(key=lambda run: (run.eps, names.index(run.recipe), run.seed))
    if runs:
        caption = (
            "Mean ± standard deviation over seeds, on the 450 test images, of the checkpoint that was best by the "
            f"recipe's own monitor (of about {VALIDATIONS} validations). PGD-50: on cross-entropy, step eps / 15, one "
            "start. Effective margin: mean l2 distance to the linearised net's nearest boundary. Steps: batches of 64, "
            f"medians of interleaved epochs, at linf {eps[0]:g}."
        )
        print(write("defenses", "Every digits recipe", table(runs, steps), caption, results))
        if rows := claims(runs, ON_DIGITS):
            print(write("claims", "What the papers claim, on digits", rows, CAPTION, results))
        frontier(runs).savefig(results / "defenses.png", dpi=110)
    if failures:
        raise SystemExit("Failed, and left out:\n" + "\n".join(failures))


if __name__ == "__main__":
    auto_cli(main)
