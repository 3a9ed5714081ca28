"""What the papers claim, as differences between recipes that share their seeds."""

import math
import statistics
from collections.abc import Callable, Sequence

from benchmarks.common.recipes import Run
from benchmarks.common.tables import Row

PAPERS: tuple[tuple[str, str, str, str, Callable[[Run], float]], ...] = (
    ("EMR raises Standard's margin", "mean effective margin (l2)", "emr_standard", "standard", lambda r: r.margin),
    ("EMR raises AT's margin", "mean effective margin (l2)", "emr_at", "at", lambda r: r.margin),
    ("ST narrows AT's gap", "CE(x_adv) - CE(x_col) (nats)", "at", "st", lambda r: r.gap),
    ("IAAT is better than AT on clean images", "clean accuracy (points)", "iaat", "at", lambda r: r.clean),
    ("... at a loss of robustness", "robust accuracy (points)", "at", "iaat", lambda r: r.robust),
    ("... smaller than the gain", "clean + robust (points)", "iaat", "at", lambda r: r.clean + r.robust),
)
"""Claim, quantity, and the recipes between which it should be larger in the first."""

CAPTION = (
    "Mean over seeds of the difference between two recipes trained with the same seed, and its standard error; a claim "
    "holds in direction where the difference is positive, and beyond chance where it is several standard errors. "
    "x_adv: PGD-20, x_col: its collaborative counterpart, 20 steps down the cross-entropy; both on the test set."
)


def claims(runs: Sequence[Run]) -> list[Row]:
    """A row for each claim and radius that both recipes were run at."""
    rows: list[Row] = []
    for eps in sorted({run.eps for run in runs}):
        for claim, quantity, first, second, of in PAPERS:
            a, b = ({r.seed: of(r) for r in runs if (r.recipe, r.eps) == (name, eps)} for name in (first, second))
            differences = [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]
            if not differences:
                continue
            n = len(differences)
            error = statistics.stdev(differences) / math.sqrt(n) if n > 1 else math.nan
            row: Row = {
                "claim": claim,
                "linf eps": eps,
                "quantity": quantity,
                "of": f"{first} - {second}",
                "difference": round(statistics.mean(differences), 6),
                "standard error": round(error, 6),
                "seeds": n,
            }
            rows.append(row)
    return rows
