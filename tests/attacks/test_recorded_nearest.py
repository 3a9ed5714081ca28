"""Nearest adversarial examples against those that the authors' own code found, in float64."""

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from lightning_robust.attacks.apgd import APGD
from lightning_robust.attacks.ddn import DDN
from lightning_robust.attacks.deepfool import DeepFool
from lightning_robust.attacks.fmn import FMN
from lightning_robust.attacks.hyperplane import nearest_classes
from lightning_robust.attacks.minimum_norm import MinimumNorm, minimum_norms
from lightning_robust.attacks.pdpgd import PDPGD
from lightning_robust.attacks.pgd import PGD
from lightning_robust.attacks.sigma_zero import SigmaZero
from lightning_robust.attacks.superdeepfool import SuperDeepFool
from lightning_robust.evaluation.toward_class import TowardClass
from lightning_robust.losses import probability_margin
from lightning_robust.runtime.gradients import input_gradient
from lightning_robust.threat import Norm, Threat, per_image
from tests.defenses.test_golden import GOLDEN
from tests.defenses.test_golden_modern import MODERN, recorded_net
from tests.helpers.toys import linear_distance, linear_net

X, Y = (MODERN.get(name, GOLDEN[name]) for name in "xy")
FIRST = float(torch.tensor(1.05, dtype=torch.float32)) / 1.05
"""DDN's first length in the authors' runs in float64: it grows in float32 once, and is float64 from then on."""
NORMS = get_args(Norm)
BALLS: tuple[Norm, ...] = ("linf", "l2", "l1")
ATTACKS: dict[str, Callable[[dict[str, Any], int], MinimumNorm]] = {
    **{f"fmn_{norm}": lambda record, steps: FMN(Threat(record["norm"], 1), steps, overshoot=0) for norm in NORMS},
    "sigma_zero": lambda record, steps: SigmaZero(steps=steps),
    "pdgd": lambda record, steps: PDPGD(Threat("l2", 1.0), steps, proximal=False),
    **{f"pdpgd_{norm}": lambda record, steps: PDPGD(Threat(record["norm"], 1), steps) for norm in NORMS},
    # whose last step is not looked at
    "sdf": lambda record, steps: SuperDeepFool(steps=steps - 1, inner_steps=100, candidates=100),
    "ddn": lambda record, steps: DDN(steps=steps, first=FIRST),
    "ddn_256": lambda record, steps: DDN(steps=steps, first=FIRST, levels=256),
}


class AdvLibSigmaZero(SigmaZero):
    """Its step size lags one step behind the authors'."""

    def _rate(self, k: int) -> float:
        return super()._rate(max(k - 1, 0))


UNBOXED = Threat("l2", 1).without_box()
OTHER_RELEASES: dict[str, tuple[Callable[[int], MinimumNorm], float]] = {
    "sigma_zero_first_release": (lambda steps: SigmaZero(steps=steps, pace=0), 1e-9),
    "sigma_zero_advlib": (lambda steps: AdvLibSigmaZero(steps=steps), 1e-9),
    # which take the normal toward the class of DeepFool's last step, not toward the most probable one
    "sdf_authors": (lambda steps: SuperDeepFool(UNBOXED, steps, inner_steps=steps, candidates=100), 0.01),
    "sdf_authors_no_search": (
        lambda steps: SuperDeepFool(UNBOXED, steps, inner_steps=steps, candidates=100, bisections=0),
        0.01,
    ),
    # foolbox's, ours, shifts from the image on; adv-lib from the point before, and does not look at the last one
    "deepfool_l2": (lambda steps: DeepFool(steps=steps - 1), 0.005),
    "deepfool_linf": (lambda steps: DeepFool(Threat("linf", 1), steps=steps - 1), 0.005),
}


@pytest.mark.parametrize("name", OTHER_RELEASES)
def test_distances_are_near_those_of_other_releases(name: str) -> None:
    """Also with the tolerances that are no rounding, of most samples to it."""
    record, net, (attack, tolerance) = MODERN[name], recorded_net(0.1).eval(), OTHER_RELEASES[name]
    exact = []
    for steps, theirs in zip(record["steps"], record["distance_f64"], strict=True):
        if name.startswith("deepfool") and steps == 1:
            continue
        found, theirs = minimum_norms(attack(steps), net, X.double(), Y), theirs.double()
        torch.testing.assert_close(found, theirs, rtol=tolerance, atol=1e-12)
        exact.append(torch.isclose(found, theirs, rtol=1e-9, atol=1e-12))
    assert torch.stack(exact).float().mean() > 0.4


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


@pytest.mark.parametrize(
    "attack",
    [
        *(FMN(Threat(norm), steps=300) for norm in BALLS),
        *(pytest.param(PDPGD(Threat(norm), steps=1000), marks=pytest.mark.slow) for norm in BALLS),
        PDPGD(Threat("l2"), steps=1000, proximal=False),
        DDN(steps=1000),
        SuperDeepFool(),
    ],
    ids=lambda attack: f"{type(attack).__name__} {attack.threat.norm}",
)
def test_distances_of_a_linear_net(attack: MinimumNorm) -> None:
    """Of two classes; the boundary lies 0.1 to 0.2 away in linf, without the box."""
    weight = torch.randn(1, 12, generator=torch.Generator().manual_seed(1))
    x = torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    net = linear_net(torch.cat([weight, -weight]), torch.zeros(2))
    x = x + per_image(0.15 * torch.ones(8), x) * weight.sign().view(3, 2, 2) - _onto_boundary(x, weight)
    y = net(x).argmax(1)
    boxless = attack.with_threat(attack.threat.without_box())
    found, best = minimum_norms(boxless, net, x, y), linear_distance(net, x, y, attack.threat.norm)
    tolerance = 0.015 if isinstance(attack, PDPGD) else 0.01  # whose weights swing about the best ones
    torch.testing.assert_close(found, best, rtol=tolerance, atol=0)


def _onto_boundary(x: Tensor, weight: Tensor) -> Tensor:
    """What leads the images onto the boundary where weight.x = 0."""
    return ((x.flatten(1) @ weight.T) / weight.square().sum() * weight).view_as(x)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_fmn_leaves_a_point_where_two_logits_are_equal(norm: Any) -> None:
    """The label's is the first: argmax takes it, and the margin there is 0."""
    weight = torch.ones(1, 12)
    net = linear_net(torch.cat([weight, -weight]), torch.tensor([-6.0, 6.0]))
    x = torch.full((1, 3, 2, 2), 0.5)
    assert net(x).argmax(1).item() == 0
    assert minimum_norms(FMN(Threat(norm)), net, x, torch.tensor([0])).item() < 0.01


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_distances_toward_a_class_are_the_authors(norm: Any) -> None:
    record, net = MODERN[f"fmn_{norm}_targeted"], recorded_net(0.1).eval()
    for x, target, theirs in zip(X.double(), record["targets"].tolist(), record["distance_f64"], strict=True):
        attack, toward = FMN(Threat(norm), record["steps"], overshoot=0), TowardClass(net, target)
        found = minimum_norms(attack, toward, x[None], torch.zeros(1, dtype=torch.long))
        torch.testing.assert_close(found[0], theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_targets_by_distance_are_in_the_authors_order(norm: Any) -> None:
    """Of the images that are classified correctly: the authors measure from the predicted class, not the label."""
    record, net = MODERN[f"malt_{norm}"], recorded_net(0.1).eval()
    right = net(X.double()).argmax(1) == Y
    found = nearest_classes(net, X[right].double(), Y[right], record["testk"], norm)[:, : record["topk"]]
    assert right.any()
    assert torch.equal(found, record["targets"][right])


@pytest.mark.parametrize("name", ["pma_pgd", "pma_pgd_random"])
def test_examples_on_the_margin_of_probabilities_are_the_authors(name: str) -> None:
    """By PGD, whose steps fall by a cosine; samples on which the net errs are left as they are."""
    record, net = MODERN[name], recorded_net(0.1).eval()
    x, y, steps = X[record["images"]].double(), Y[record["images"]], record["steps"]
    x_adv = (x + record["draws"][0].double()).clamp(0, 1) if record["random_start"] else x
    attack = PGD(Threat("linf", record["eps"]), steps=1, loss="probability_margin")
    for k in range(steps):
        right = net(x_adv).argmax(1) == y
        moved = attack(net, x, y, start=x_adv, step_size=2 / 255 * math.cos(math.pi * k / (2 * steps)))
        x_adv = torch.where(per_image(right, x).bool(), moved, x_adv)
    torch.testing.assert_close(x_adv, record["x_adv_f64"], rtol=0, atol=1e-12)
    assert torch.equal(net(x_adv).argmax(1) == y, record["robust"])


def test_apgd_on_the_margin_of_probabilities_breaks_what_the_authors_attack_does() -> None:
    """Theirs is Margin Decomposition with this loss, whose steps are others."""
    record, net = MODERN["pma_md"], recorded_net(0.1).eval()
    x, y = X[record["images"]].double(), Y[record["images"]]
    x_adv = APGD(Threat("linf", record["eps"]), steps=record["steps"], loss="probability_margin")(net, x, y)
    assert torch.equal(net(x_adv).argmax(1) == y, record["robust"])


def test_the_margin_of_probabilities_is_the_authors() -> None:
    record, net = MODERN["pma_loss"], recorded_net(0.1).eval()
    slope, value = input_gradient(lambda z: probability_margin(net(z), Y), X.double())
    torch.testing.assert_close(value, record["per_sample_f64"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(slope[:2], record["grad_first_two_f64"], rtol=1e-9, atol=1e-12)
