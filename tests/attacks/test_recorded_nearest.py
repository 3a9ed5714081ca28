"""Nearest adversarial examples against those that the authors' own code found, in float64."""

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch

from lightning_robust.attacks.ddn import DDN
from lightning_robust.attacks.fmn import FMN
from lightning_robust.attacks.minimum_norm import MinimumNorm, minimum_norms
from lightning_robust.attacks.pdpgd import PDPGD
from lightning_robust.attacks.sigma_zero import SigmaZero
from lightning_robust.attacks.superdeepfool import SuperDeepFool
from lightning_robust.evaluation.toward_class import TowardClass
from lightning_robust.threat import Norm, Threat
from tests.defenses.test_golden import GOLDEN
from tests.defenses.test_golden_modern import MODERN, recorded_net

X, Y = (MODERN.get(name, GOLDEN[name]) for name in "xy")
FIRST = float(torch.tensor(1.05, dtype=torch.float32)) / 1.05
"""DDN's first length in the authors' runs in float64: it grows in float32 once, and is float64 from then on."""
ATTACKS: dict[str, Callable[[dict[str, Any], int], MinimumNorm]] = {
    **{f"fmn_{norm}": lambda record, steps: FMN(Threat(record["norm"]), steps) for norm in ("linf", "l2", "l1")},
    "fmn_l0": lambda record, steps: FMN(Threat("l0", 1), steps),
    "sigma_zero": lambda record, steps: SigmaZero(steps=steps),
    "pdgd": lambda record, steps: PDPGD(Threat("l2", 1.0), steps, proximal=False),
    **{f"pdpgd_{norm}": lambda record, steps: PDPGD(Threat(record["norm"], 1), steps) for norm in get_args(Norm)},
    # whose last step is not looked at
    "sdf": lambda record, steps: SuperDeepFool(steps=steps - 1, inner_steps=100, candidates=100),
    "ddn": lambda record, steps: DDN(steps=steps, first=FIRST),
    "ddn_256": lambda record, steps: DDN(steps=steps, first=FIRST, levels=256),
}


ROUNDING = {name: 1e-4 for name in ("pdgd", "pdpgd_linf", "pdpgd_l2", "pdpgd_l1", "pdpgd_l0")}
"""Relative, where the authors keep the weight of the margin in float32 also in their runs in float64."""


@pytest.mark.parametrize("name", ATTACKS)
def test_distances_are_the_authors_for_each_budget(name: str) -> None:
    record, net = MODERN[name], recorded_net(0.1).eval()
    for steps, theirs in zip(record["steps"], record["distance_f64"], strict=True):
        if name == "sdf" and steps == 1:
            continue
        found = minimum_norms(ATTACKS[name](record, steps), net, X.double(), Y)
        torch.testing.assert_close(found, theirs.double(), rtol=ROUNDING.get(name, 1e-9), atol=1e-12)


@pytest.mark.parametrize("name", [name for name in ATTACKS if "images" in MODERN[name]])
def test_examples_are_the_authors(name: str) -> None:
    record, net = MODERN[name], recorded_net(0.1).eval()
    chosen = record["images"]
    found = ATTACKS[name](record, 20).nearest(net, X[chosen].double(), Y[chosen])
    torch.testing.assert_close(found, record["x_adv_20_steps_f64"], rtol=0, atol=ROUNDING.get(name, 1e-9))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_distances_toward_a_class_are_the_authors(norm: Any) -> None:
    record, net = MODERN[f"fmn_{norm}_targeted"], recorded_net(0.1).eval()
    for x, target, theirs in zip(X.double(), record["targets"].tolist(), record["distance_f64"], strict=True):
        attack, toward = FMN(Threat(norm), record["steps"]), TowardClass(net, target)
        found = minimum_norms(attack, toward, x[None], torch.zeros(1, dtype=torch.long))
        torch.testing.assert_close(found[0], theirs, rtol=1e-9, atol=1e-12)
