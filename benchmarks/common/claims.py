"""What the papers claim, as differences between recipes that share their seeds."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks.common.tables import Row


class Claim(NamedTuple):
    """What should be larger in the first recipe than in the second.

    Args:
        claim: in words.
        quantity: what is compared, with its unit.
        first: the recipe in which it should be larger.
        second: the recipe that it is compared with.
        of: the quantity of a run.
    """

    claim: str
    quantity: str
    first: str
    second: str
    of: Callable[[Any], float]


MARGIN, GAP = "mean effective margin (l2)", "CE(x_adv) - CE(x_col) (nats)"
CLEAN, PGD, AUTOATTACK = "clean accuracy (points)", "under PGD-50 (points)", "under AutoAttack (points)"
ON_DIGITS = (
    Claim("EMR raises Standard's margin", MARGIN, "emr_standard", "standard", lambda r: r.margin),
    Claim("EMR raises AT's margin", MARGIN, "emr_at", "at", lambda r: r.margin),
    Claim("ST narrows AT's gap", GAP, "at", "st", lambda r: r.gap),
    Claim("IAAT is better than AT on clean images", CLEAN, "iaat", "at", lambda r: r.clean),
    Claim("... at a loss of robustness", "robust accuracy (points)", "at", "iaat", lambda r: r.robust),
    Claim("... smaller than the gain", "clean + robust (points)", "iaat", "at", lambda r: r.clean + r.robust),
)
ON_FASHION = (
    Claim("EMR raises Standard's margin", MARGIN, "emr_standard", "standard", lambda r: r.margin),
    Claim("... and its robustness", AUTOATTACK, "emr_standard", "standard", lambda r: r.autoattack),
    Claim("EMR raises AT's margin", MARGIN, "emr_at", "at", lambda r: r.margin),
    Claim("... and its robustness", AUTOATTACK, "emr_at", "at", lambda r: r.autoattack),
    Claim("EMR raises MART's margin", MARGIN, "emr_mart", "mart", lambda r: r.margin),
    Claim("... and its robustness", AUTOATTACK, "emr_mart", "mart", lambda r: r.autoattack),
    Claim("EMR raises MAIL-AT's margin", MARGIN, "emr_mail_at", "mail_at", lambda r: r.margin),
    Claim("... and its robustness", AUTOATTACK, "emr_mail_at", "mail_at", lambda r: r.autoattack),
    Claim("IAAT is better than AT on clean images", CLEAN, "iaat", "at", lambda r: r.clean),
    Claim("... at a loss under PGD", PGD, "at", "iaat", lambda r: r.robust),
    Claim("... and under AutoAttack", AUTOATTACK, "at", "iaat", lambda r: r.autoattack),
    Claim("ST is more robust than AT", AUTOATTACK, "st", "at", lambda r: r.autoattack),
    Claim("ST is more robust than TRADES", AUTOATTACK, "st", "trades", lambda r: r.autoattack),
    Claim("ST narrows AT's gap", GAP, "at", "st", lambda r: r.gap),
    Claim("ST narrows TRADES's gap", GAP, "trades", "st", lambda r: r.gap),
    Claim("AWP makes ST more robust", AUTOATTACK, "st_awp", "st", lambda r: r.autoattack),
    Claim("RWP makes ST more robust", AUTOATTACK, "st_rwp", "st", lambda r: r.autoattack),
    Claim("ST makes AWP more robust", AUTOATTACK, "st_awp", "awp", lambda r: r.autoattack),
    Claim("ST makes RWP more robust", AUTOATTACK, "st_rwp", "rwp", lambda r: r.autoattack),
    Claim("ST makes RST more robust", AUTOATTACK, "st_rst", "rst", lambda r: r.autoattack),
)

CAPTION = (
    "Mean over seeds of the difference between two recipes trained with the same seed, and its standard error; a claim "
    "holds in direction where the difference is positive, and beyond chance where it is several standard errors. "
    "x_adv: PGD-20, x_col: its collaborative counterpart, 20 steps down the cross-entropy; both on the test set."
)


def claims(runs: Sequence[Any], of: Sequence[Claim]) -> list[Row]:
    """A row for each claim and radius that both recipes were run at.

    Args:
        runs: objects with `recipe`, `eps`, `seed` and what the claims compare.
        of: the claims.
    """
    rows: list[Row] = []
    for eps in sorted({run.eps for run in runs}):
        for claim, quantity, first, second, value in of:
            a, b = ({r.seed: value(r) for r in runs if (r.recipe, r.eps) == (name, eps)} for name in (first, second))
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
