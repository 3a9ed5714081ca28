"""Without a box, the least perturbation of a linear net has a closed form in each norm, and attacks find it."""

from typing import Any

import pytest
import torch

from lightning_robust.attacks import APGD, CW, FAB, PGD, Attack, DeepFool, Square
from lightning_robust.attacks.functional import minimum_norms
from lightning_robust.threat import Threat
from tests.helpers.toys import linear_distance, linear_net

BOXES = [(-torch.inf, torch.inf), (-20.0, torch.inf), (-torch.inf, 20.0)]
X = 3 * torch.randn(12, 1, 6, 6, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.randn(4, 36, generator=torch.Generator().manual_seed(1))
NET = linear_net(WEIGHT.masked_fill(torch.arange(36) % 6 == 0, 0))  # some pixels play no part
Y = NET(X).argmax(1)
boxes = pytest.mark.parametrize("box", BOXES, ids=str)


@boxes
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_nearest_example_is_found(norm: Any, box: tuple[float, float]) -> None:
    threat, least = Threat(norm, 0.5, *box), linear_distance(NET, X, Y, norm)
    for search in (FAB(threat, steps=30), FAB(threat, steps=30, targets=3)):
        torch.testing.assert_close(minimum_norms(search, NET, X, Y), least, rtol=0.01, atol=0)
    if norm != "l1":
        torch.testing.assert_close(minimum_norms(DeepFool(threat), NET, X, Y), least, rtol=0.04, atol=0)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize(
    ("kind", "settings", "reach"),
    [
        (PGD, {"steps": 100, "loss": "margin"}, 1.1),
        (APGD, {"steps": 60, "targets": 3}, 1.2),
        (Square, {"queries": 400}, 4.0),
    ],
)
@pytest.mark.slow
def test_attacks_within_a_radius_succeed_beyond_it_alone(
    kind: type[Attack], settings: dict[str, Any], reach: float, norm: Any
) -> None:
    attack, least = kind(Threat(norm, 0.5, *BOXES[0]), **settings), linear_distance(NET, X, Y, norm)
    for share, falls in ((0.98, 0), (reach, 9)):
        x_adv = attack(NET, X, Y, eps=share * least)
        assert (attack.threat.distance(x_adv, X) <= share * least * (1 + 1e-4)).all()
        assert (NET(x_adv).argmax(1) != Y).sum() >= falls
        if share < 1:
            assert (NET(x_adv).argmax(1) == Y).all()


def test_cw_needs_a_box() -> None:
    for box in BOXES:
        with pytest.raises(ValueError, match="CW needs a finite box"):
            CW(Threat("l2", 0.5, *box))
        with pytest.raises(ValueError, match="CW needs a finite box"):
            CW().with_threat(Threat("l2", 0.5, *box))


def test_pixels_must_be_finite_without_a_box() -> None:
    x = X.clone()
    x[0, 0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="must lie in"):
        PGD(Threat("l2", 0.5, -torch.inf, torch.inf))(NET, x, Y)
