"""Attacks that look for the nearest example: sizes, time and optimality, beside adv-lib's at equal steps.

python -m benchmarks.nearest [--nets FOLDER] [--rounds 3] [--cases [digits AT,colours AT]] [--norms [l2]]

`pip install adv-lib` brings the other library; without it, the package's attacks stand alone.
"""

import io
import math
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from jsonargparse import auto_cli
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.common.cases import CLASSES, RADII, Case, NetName, dataset, percent, trained
from benchmarks.common.processes import prepare
from benchmarks.common.tables import RESULTS, Row, required, write
from benchmarks.common.timing import Spread, interleave, ratio, timed
from lightning_robust.attacks import CW, DDN, FAB, FMN, PDPGD, DeepFool, NearestExamples, SigmaZero, SuperDeepFool
from lightning_robust.attacks.minimum_norm import MinimumNorm, minimum_norms
from lightning_robust.evaluation.optimality import optimality
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Norm, Threat

ORDERS: dict[Norm, float] = {"linf": math.inf, "l2": 2, "l1": 1, "l0": 0}
"""The norms as adv-lib takes them."""
WITHIN = 1.02
"""How much larger than adv-lib's our median may be."""
ENSEMBLE = "NearestExamples"

Find: TypeAlias = Callable[[Case], Tensor]
"""From a case to the sizes [n] of the smallest perturbations found."""


class Contender(NamedTuple):
    """An attack here, and the same in adv-lib."""

    norms: tuple[Norm, ...]
    steps: int
    ours: Callable[[Threat, int], MinimumNorm]
    theirs: Callable[[Any, Case, int], Tensor] | None = None


CONTENDERS: dict[str, Contender] = {
    "FMN": Contender(
        ("linf", "l2", "l1", "l0"),
        100,
        FMN,
        lambda lib, c, steps: lib.fmn(c.net, c.x, c.y, ORDERS[c.norm], steps=steps),
    ),
    "PDPGD": Contender(
        ("linf", "l2", "l1", "l0"),
        200,
        PDPGD,
        lambda lib, c, steps: lib.pdpgd(
            c.net, c.x, c.y, ORDERS[c.norm], num_steps=steps, proximal_operator=23 if c.norm == "l0" else None
        ),
    ),
    "PDGD": Contender(
        ("l2",),
        200,
        lambda threat, steps: PDPGD(threat, steps, proximal=False),
        lambda lib, c, steps: lib.pdgd(c.net, c.x, c.y, num_steps=steps),
    ),
    "DDN": Contender(("l2",), 100, DDN, lambda lib, c, steps: lib.ddn(c.net, c.x, c.y, steps=steps, levels=None)),
    "SuperDeepFool": Contender(
        ("l2",),
        30,
        SuperDeepFool,
        lambda lib, c, steps: lib.sdf(c.net, c.x, c.y, steps=steps, df_steps=50),
    ),
    "sigma-zero": Contender(
        ("l0",), 100, SigmaZero, lambda lib, c, steps: lib.sigma_zero(c.net, c.x, c.y, num_steps=steps)
    ),
    "FAB": Contender(
        ("linf", "l2", "l1"),
        100,
        lambda threat, steps: FAB(threat, steps, candidates=CLASSES - 1),
        lambda lib, c, steps: lib.fab(c.net, c.x, c.y, ORDERS[c.norm], n_iter=steps),
    ),
    "DeepFool": Contender(
        ("linf", "l2"),
        50,
        DeepFool,
        lambda lib, c, steps: lib.df(c.net, c.x, c.y, steps=steps, norm=ORDERS[c.norm]),
    ),
    "CW": Contender(
        ("l2",),
        200,
        CW,
        lambda lib, c, steps: lib.carlini_wagner_l2(c.net, c.x, c.y, max_iterations=steps, binary_search_steps=9),
    ),
    ENSEMBLE: Contender(("linf", "l2", "l1", "l0"), 0, lambda threat, _: NearestExamples(threat)),
}


class Search:
    """An arm: the whole batch is attacked, silently, and the sizes are kept."""

    def __init__(self, case: Case, find: Find) -> None:
        self.case, self.find, self.arm, self.size = case, find, timed(self._attack), torch.empty(0)

    def __call__(self) -> float:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            return self.arm()

    def _attack(self) -> None:
        self.size = self.find(self.case)


def searches(case: Case) -> dict[str, Search]:
    """The attacks that work in the case's norm, ours by their names and adv-lib's by "<name>, adv-lib"."""
    try:
        lib: Any = import_module("adv_lib.attacks")
    except ImportError:
        lib = None
    found = {}
    for name, contender in CONTENDERS.items():
        if case.norm not in contender.norms:
            continue
        found[name] = Search(case, _ours(contender))
        if lib is not None and contender.theirs is not None:
            found[f"{name}, adv-lib"] = Search(case, _theirs(contender, lib))
    return found


def _ours(contender: Contender) -> Find:
    def find(case: Case) -> Tensor:
        attack = contender.ours(Threat(case.norm, 1), contender.steps)
        return minimum_norms(attack, case.net, case.x, case.y, SampleRNG(0, torch.arange(len(case.x))))

    return find


def _theirs(contender: Contender, lib: Any) -> Find:
    assert contender.theirs is not None
    theirs = contender.theirs

    def find(case: Case) -> Tensor:
        x_adv = theirs(lib, case, contender.steps).detach()
        wrong = logits_no_grad(case.net, x_adv).argmax(1) != case.y
        return Threat(case.norm, 1).distance(x_adv, case.x).masked_fill(~wrong, torch.inf)

    return find


def measure(case: Case, rounds: int) -> tuple[list[Row], dict[str, Tensor]]:
    """A line for each of our attacks; and the sizes that each attack found."""
    arms = searches(case)
    seconds = interleave(arms, rounds)
    right = logits_no_grad(case.net, case.x).argmax(1) == case.y
    sizes = {name: arm.size.masked_fill(~right, 0) for name, arm in arms.items()}
    best = torch.stack(list(sizes.values())).amin(0)
    rows: list[Row] = []
    for name in arms:
        if name.endswith("adv-lib"):
            continue
        peer, ours = f"{name}, adv-lib", sizes[name][right]
        row: dict[str, str | float] = {
            "net": case.name,
            "norm": case.norm,
            "attack": name,
            "steps": CONTENDERS[name].steps or "",
            "found": percent(ours.isfinite()),
            "median": _median(ours),
            "optimality": round(optimality(sizes[name], best), 4),
            "seconds": Spread.of(seconds[name]).median,
            "found, adv-lib": "",
            "median over adv-lib's": "",
            "optimality, adv-lib": "",
            "adv-lib's seconds over ours": "",
        }
        if peer in arms:
            theirs = sizes[peer][right]
            row |= {
                "found, adv-lib": percent(theirs.isfinite()),
                "median over adv-lib's": _median(ours) / _median(theirs),
                "optimality, adv-lib": round(optimality(sizes[peer], best), 4),
                "adv-lib's seconds over ours": ratio(seconds[peer], seconds[name]).median,
            }
        rows.append(row)
    return rows, sizes


def _median(size: Tensor) -> float:
    return float(size.quantile(0.5, interpolation="higher"))  # inf where less than half were found


def draw(found: dict[tuple[str, str], dict[str, Tensor]], folder: Path) -> None:
    """Leave `nearest.png`: accuracy against radius under each of our attacks, a panel for each net and norm."""
    nets, norms = (list(dict.fromkeys(key[i] for key in found)) for i in range(2))
    figure = Figure(figsize=(3.6 * len(norms), 2.9 * len(nets) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(nets), len(norms), squeeze=False)
    colours = {name: f"C{i}" for i, name in enumerate(CONTENDERS)} | {ENSEMBLE: "black"}
    shown: dict[str, Any] = {}
    for (net, norm), sizes in found.items():
        axes = panels[nets.index(net)][norms.index(norm)]
        finite = sizes[ENSEMBLE][sizes[ENSEMBLE].isfinite()]
        radii = torch.linspace(0, 1.2 * float(finite.quantile(0.95)), 200)
        for name, size in sizes.items():
            if name not in colours:
                continue
            look: dict[str, Any] = {"lw": 1.8, "zorder": 3} if name == ENSEMBLE else {"lw": 1, "alpha": 0.9}
            curve = [percent(size > radius) for radius in radii]
            (shown[name],) = axes.plot(radii, curve, color=colours[name], **look)
        axes.set(title=f"{net}, {norm}", xlabel="radius", ylim=(0, 100), xlim=(0, float(radii[-1])))
        axes.grid(alpha=0.3)
    for row in panels:
        row[0].set_ylabel("accuracy (%)")
    order = [name for name in CONTENDERS if name in shown]
    figure.legend([shown[name] for name in order], order, loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(folder / "nearest.png", dpi=110)


def main(
    nets: Path | None = None,
    rounds: int = 3,
    cases: list[NetName] = list(RADII),  # noqa: B006  (read alone; a list shows in --help)
    norms: list[Norm] = list(ORDERS),  # noqa: B006
    samples: int = 200,
    colour_samples: int = 50,
    results: Path = RESULTS,
) -> None:
    """Measure on the CPU, print the table, and leave it in results/nearest.{csv,md,png}.

    Args:
        nets: folder where the trained nets are kept; by default none is.
        rounds: all arms run once in each; at least 2.
        cases: nets that are attacked.
        norms: in which.
        samples: digits attacked at a time.
        colour_samples: coloured digits attacked at a time.
        results: folder for the results.
    """
    prepare()
    rows: list[Row] = []
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in cases:
            x, y = dataset(name, train=False)
            n, net = colour_samples if name == "colours AT" else samples, trained(name, nets or Path(scratch))
            for norm in norms:
                more, found[name, norm] = measure(Case(name, net, norm, 1.0, x[:n], y[:n]), rounds)
                rows += more
    compared = [row for row in rows if row["median over adv-lib's"] != ""]
    near = {_line(row): float(row["median over adv-lib's"]) <= WITHIN for row in compared}
    below = {
        f"{name}, {net}, {norm}": bool((sizes[ENSEMBLE].sort().values <= sizes[name].sort().values + 1e-6).all())
        for (net, norm), sizes in found.items()
        for name in ("FAB", "DeepFool", "CW")
        if name in sizes
    }
    asked = {
        "no median is larger than adv-lib's by more than 2 %": near,
        f"{ENSEMBLE} leaves no more accuracy than FAB, DeepFool and CW at any radius": below,
    }
    caption = (
        "Sizes of the smallest perturbations found of the samples that are classified correctly, in units of pixels in "
        "[0, 1] (l0: values); `found` in percent; optimality is AttackBench's, against all attacks of this table and "
        f"adv-lib's; seconds of the batch on one thread. {required(asked)}"
    )
    print(write("nearest", "Attacks that look for the nearest example", rows, caption, results))
    draw(found, results)


def _line(row: Row) -> str:
    return f"{row['attack']}, {row['net']}, {row['norm']}"


if __name__ == "__main__":
    auto_cli(main)
