"""Attacks here and in other libraries: the same net, samples and numbers of steps.

python -m benchmarks.attack_peers [--nets FOLDER] [--rounds 5] [--cases [digits AT,colours AT]]

`pip install torchattacks foolbox adversarial-robustness-toolbox adv-lib cleverhans` brings the libraries.
"""

import io
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jsonargparse import auto_cli
from torch import Tensor, nn

from benchmarks.common.cases import CLASSES, RADII, Case, NetName, dataset, percent, trained
from benchmarks.common.figures import bars
from benchmarks.common.processes import prepare
from benchmarks.common.tables import Row, required, write
from benchmarks.common.timing import Arm, Spread, interleave, ratio, timed
from lightning_robust.attacks import APGD, FAB, PGD, Attack, Square
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.runtime.rng import SampleRNG

STEPS = {"PGD": 20, "APGD-CE": 50, "FAB": 20, "Square": 1000}
"""Gradient steps, or queries."""

Run: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Peer: TypeAlias = Callable[[Case, str], Run]
"""From a net, a threat model and an attack's name to the attack; KeyError where the library does not have it."""


def ours(case: Case, attack: str) -> Run:
    """The package's."""
    steps, threat = STEPS[attack], case.threat
    of: dict[str, Attack] = {
        "PGD": PGD(threat, steps, step_size=case.eps / 8),
        "APGD-CE": APGD(threat, steps),
        "FAB": FAB(threat, steps, candidates=CLASSES - 1),
        "Square": Square(threat, steps),
    }
    return lambda x, y: of[attack](case.net, x, y, rng=SampleRNG(0, torch.arange(len(x))))


def torchattacks(case: Case, attack: str) -> Run:
    """torchattacks'."""
    module, norm, steps = import_module("torchattacks"), case.norm.capitalize(), STEPS[attack]
    pgd = {"linf": module.PGD, "l2": module.PGDL2}[case.norm]
    of: dict[str, Run] = {
        "PGD": pgd(case.net, eps=case.eps, alpha=case.eps / 8, steps=steps),
        "APGD-CE": module.APGD(case.net, norm=norm, eps=case.eps, steps=steps),
        "FAB": module.FAB(case.net, norm=norm, eps=case.eps, steps=steps, n_classes=CLASSES),
        "Square": module.Square(case.net, norm=norm, eps=case.eps, n_queries=steps, resc_schedule=False),
    }
    return of[attack]


def foolbox(case: Case, attack: str) -> Run:
    """Foolbox's."""
    module = import_module("foolbox")
    pgd = {"linf": module.attacks.LinfPGD, "l2": module.attacks.L2PGD}[case.norm]
    of = {"PGD": pgd(abs_stepsize=case.eps / 8, steps=STEPS["PGD"])}[attack]
    net = module.PyTorchModel(case.net, bounds=(0, 1), device="cpu")
    return lambda x, y: of(net, x, y, epsilons=case.eps)[1]


def adv_lib(case: Case, attack: str) -> Run:
    """adv-lib's."""
    module, steps = import_module("adv_lib.attacks"), STEPS[attack]
    norm = {"linf": float("inf"), "l2": 2.0}[case.norm]
    of: dict[str, Run] = {
        "APGD-CE": lambda x, y: module.apgd(case.net, x, y, case.eps, norm, n_iter=steps, loss_function="ce"),
        "FAB": lambda x, y: module.fab(case.net, x, y, norm, n_iter=steps, ε=case.eps),
    }
    if case.norm == "linf":
        of["PGD"] = lambda x, y: module.pgd_linf(case.net, x, y, case.eps, steps=steps, relative_step_size=1 / 8)
    return of[attack]


def cleverhans(case: Case, attack: str) -> Run:
    """CleverHans'."""
    module = import_module("cleverhans.torch.attacks.projected_gradient_descent")
    norm = {"linf": np.inf, "l2": 2}[case.norm]
    pgd = module.projected_gradient_descent
    of: dict[str, Run] = {
        "PGD": lambda x, y: pgd(
            case.net, x, case.eps, case.eps / 8, STEPS["PGD"], norm, 0, 1, y=y, rand_init=True, sanity_checks=False
        )
    }
    return of[attack]


def art(case: Case, attack: str) -> Run:
    """The Adversarial Robustness Toolbox's."""
    evasion, steps = import_module("art.attacks.evasion"), STEPS[attack]
    classifier = import_module("art.estimators.classification").PyTorchClassifier(
        case.net,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(case.x.shape[1:]),
        nb_classes=CLASSES,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    norm: Any = {"linf": np.inf, "l2": 2}[case.norm]
    given = {"norm": norm, "eps": case.eps, "max_iter": steps, "batch_size": len(case.x), "verbose": False}
    step = {"eps_step": case.eps / 8}
    of: dict[str, Callable[[], Any]] = {
        "PGD": lambda: evasion.ProjectedGradientDescent(classifier, num_random_init=1, **step, **given),
        "APGD-CE": lambda: evasion.AutoProjectedGradientDescent(
            classifier, nb_random_init=1, loss_type="cross_entropy", **step, **given
        ),
        "Square": lambda: evasion.SquareAttack(classifier, nb_restarts=1, **given),
    }
    found = of[attack]()
    return lambda x, y: torch.from_numpy(found.generate(x.numpy(), y=y.numpy()))


PEERS: dict[str, Peer] = {
    "torchattacks": torchattacks,
    "foolbox": foolbox,
    "adv_lib": adv_lib,
    "cleverhans": cleverhans,
    "art": art,
}


class Attacked:
    """An arm: the whole batch is attacked, silently."""

    def __init__(self, case: Case, run: Run) -> None:
        self.case, self.run, self.arm, self.robust = case, run, timed(self._attack), 0.0

    def __call__(self) -> float:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            return self.arm()

    def _attack(self) -> None:
        x_adv = self.run(self.case.x, self.case.y)
        inside = self.case.threat.distance(x_adv, self.case.x) <= self.case.eps * (1 + 1e-5) + 1e-6
        self.robust = percent((logits_no_grad(self.case.net, x_adv).argmax(1) == self.case.y) | ~inside)


def measure(case: Case, attack: str, rounds: int) -> tuple[list[Row], dict[str, Spread]]:
    """A line for each library that has the attack."""
    arms: dict[str, Attacked] = {"ours": Attacked(case, ours(case, attack))}
    for name, peer in PEERS.items():
        try:
            arms[name] = Attacked(case, peer(case, attack))
        except (KeyError, ImportError):  # does not have it; is not installed
            continue
    plain: dict[str, Arm] = {**arms}
    seconds = interleave(plain, rounds)
    rows: list[Row] = []
    over: dict[str, Spread] = {}
    for name in list(arms)[1:]:
        line = f"{attack}, {case.norm}, {case.name}: {name}"
        over[line] = ratio(seconds[name], seconds["ours"])
        row: Row = {
            "attack": f"{attack}, {STEPS[attack]} {'queries' if attack == 'Square' else 'steps'}",
            "norm": case.norm,
            "net": case.name,
            "peer": name,
            "our seconds": Spread.of(seconds["ours"]).median,
            "times as long": over[line].median,
            "quartiles": over[line].quartiles(2),
            "robust, ours": arms["ours"].robust,
            "robust, peer": arms[name].robust,
        }
        rows.append(row)
    return rows, over


def main(
    nets: Path | None = None,
    rounds: int = 5,
    cases: list[NetName] = ["digits AT", "colours AT"],  # noqa: B006  (read alone; a list shows in --help)
    samples: int = 100,
    colour_samples: int = 32,
    attacks: list[str] = list(STEPS),  # noqa: B006
) -> None:
    """Measure on the CPU, print the table, and leave it in results/attack_peers.{csv,md,png}.

    Args:
        nets: folder where the trained nets are kept; by default none is.
        rounds: all arms run once in each.
        cases: nets that are attacked.
        samples: digits attacked at a time.
        colour_samples: coloured digits attacked at a time.
        attacks: some of PGD, APGD-CE, FAB and Square.
    """
    prepare()
    rows: list[Row] = []
    over: dict[str, Spread] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in cases:
            x, y = dataset(name, train=False)
            n, net = colour_samples if name == "colours AT" else samples, trained(name, nets or Path(scratch))
            for norm, eps in RADII[name].items():
                for attack in attacks:
                    more, spreads = measure(Case(name, net, norm, eps, x[:n], y[:n]), attack, rounds)
                    rows += more
                    over |= spreads
    met = {f"{r['attack']}, {r['norm']}, {r['net']}, {r['peer']}": float(r["times as long"]) >= 1 for r in rows}
    caption = (
        "Seconds of a batch, on one thread, over ours. Robust accuracies in percent; examples outside the ball do not "
        f"count. {required({'no peer is faster': met})}"
    )
    print(write("attack_peers", "Attacks in other libraries at equal steps", rows, caption))
    bars("attack_peers", over, "times as long as ours", 1.0)


if __name__ == "__main__":
    auto_cli(main)
