"""The nearest of the examples that several attacks find."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_robust.attacks import CW, DDN, FAB, FMN, PDPGD, PGD, DeepFool, NearestExamples, SigmaZero
from lightning_robust.attacks.minimum_norm import MinimumNorm, minimum_norms
from lightning_robust.attacks.named import named_attack
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from tests.defenses.test_golden import GOLDEN
from tests.defenses.test_golden_modern import MODERN, recorded_net
from tests.helpers.toys import conv_net

X, Y = (MODERN.get(name, GOLDEN[name])[:8] for name in "xy")


def recorded(attack: MinimumNorm) -> Tensor:
    """The sizes that the attack finds on the recorded net."""
    return minimum_norms(attack, recorded_net(0.1).eval(), X.double(), Y, SampleRNG(0, torch.arange(len(X))))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_it_keeps_the_nearest_that_any_of_its_attacks_finds_alone(norm: Any) -> None:
    """FAB, whose start is random, with the random numbers that are its own."""
    parts: dict[str, MinimumNorm] = {"fmn": FMN(Threat(norm, 1), steps=7), "pdpgd": PDPGD(Threat(norm, 1), steps=9)}
    if norm != "l0":
        parts["fab"] = FAB(Threat(norm, 1), steps=3, restarts=2)
    net, rng = conv_net().eval(), SampleRNG(3, torch.arange(8))
    x = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    y = net(x).argmax(1)
    y[:2] = (y[:2] + 1) % 4  # wrong from the outset
    alone = [minimum_norms(attack, net, x, y, rng.fork(number)) for number, attack in enumerate(parts.values())]
    nearest = torch.stack(alone).amin(0)
    attack = NearestExamples(Threat(norm, 1), parts)
    assert torch.equal(minimum_norms(attack, net, x, y, rng), nearest)
    assert (nearest[:2] == 0).all()
    assert nearest[2:].isfinite().any()
    x_adv = attack.nearest(net, x, y, rng=rng)
    assert torch.equal(attack.threat.distance(x_adv, x).masked_fill(net(x_adv).argmax(1) == y, torch.inf), nearest)


def test_what_is_near_enough_is_left_to_no_further_attack() -> None:
    seen: list[int] = []

    class Spy(FMN):
        def search(self, net: Any, y: Tensor, logits: Tensor, found: Any, rng: SampleRNG) -> None:
            seen.append(len(y))
            super().search(net, y, logits, found, rng)

    net = conv_net().eval()
    x = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    attack = NearestExamples(Threat("l2", 1), {"a": Spy(Threat("l2", 1)), "b": Spy(Threat("l2", 1))})
    attack.nearest(net, x, net(x).argmax(1), enough=torch.tensor([99.0] * 5 + [0.0] * 3))
    assert seen == [8, 3]


@pytest.mark.parametrize(
    ("norm", "rivals"),
    [
        ("linf", [FAB(), DeepFool(Threat("linf", 1))]),
        ("l2", [FAB(Threat("l2", 1)), DeepFool(), DDN(), CW(steps=100, lr=0.05, search_steps=5)]),
        ("l1", [FAB(Threat("l1", 1))]),
    ],
)
@pytest.mark.slow
def test_no_rival_leaves_less_accuracy_at_any_radius(norm: Any, rivals: list[MinimumNorm]) -> None:
    nearest = recorded(NearestExamples(Threat(norm, 1))).sort().values
    for rival in rivals:
        assert (nearest <= recorded(rival).sort().values + 1e-12).all()


def test_other_threats_mean_other_attacks_unless_they_were_given() -> None:
    attack = named_attack("nearest")
    assert isinstance(attack, NearestExamples)
    assert not attack.threat_given
    assert list(attack.with_threat(Threat("l0", 3)).attacks) == ["sigma-zero", "fmn", "pdpgd"]
    assert {part.threat for part in attack.with_threat(Threat("l1", 3)).attacks.values()} == {Threat("l1", 3)}
    given = NearestExamples(Threat("l2", 1), {"cw": CW()}).with_threat(Threat("l2", 3))
    assert (list(given.attacks), given.attacks["cw"].threat) == (["cw"], Threat("l2", 3))
    with pytest.raises(ValueError, match="works in l2 alone"):
        given.with_threat(Threat("linf", 0.1))
    with pytest.raises(ValueError, match="one attack or more"):
        NearestExamples(attacks={})
    with pytest.raises(ValueError, match="works in l0 alone"):
        NearestExamples(Threat("l2", 1), {"sigma-zero": SigmaZero()})


def test_only_attacks_that_look_for_the_nearest_example_are_taken() -> None:
    with pytest.raises(TypeError, match="PGD does not look for the nearest example"):
        NearestExamples(attacks={"pgd": PGD()})  # type: ignore[dict-item]
