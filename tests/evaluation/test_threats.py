from types import SimpleNamespace

import pytest

from lightning_robust.attacks import CW, FAB, PGD, AutoAttack
from lightning_robust.evaluation.threats import mismatch, training_threat, under_threat
from lightning_robust.threat import Threat

SMALL, LARGE = Threat("linf", 0.1), Threat("linf", 0.3)


def test_an_attack_without_a_threat_takes_the_trainings_and_stays_as_it_was() -> None:
    given = {"pgd": PGD(steps=7), "aa": AutoAttack(version="rapid"), "own": PGD(LARGE)}
    for trained in (SMALL, LARGE):  # one after the other: the first leaves nothing behind
        found = under_threat(given, trained, None)
        assert list(found) == list(given)
        assert {found[name].threat for name in ("pgd", "aa")} == {trained}
        assert {stage.threat for stage in found["aa"].stages.values()} == {trained}
        assert found["own"] is given["own"]
        assert vars(found["pgd"])["steps"] == 7
    assert [attack.threat for attack in given.values()] == [Threat(), Threat(), LARGE]
    assert {stage.threat for stage in given["aa"].stages.values()} == {Threat()}


def test_what_is_asked_overrides_both() -> None:
    asked = Threat("l2", 0.5)
    given = {"pgd": PGD(), "own": PGD(LARGE), "fab": FAB(SMALL)}
    assert {attack.threat for attack in under_threat(given, SMALL, asked).values()} == {asked}
    assert given["own"].threat == LARGE


def test_without_a_training_threat_the_attacks_keep_theirs() -> None:
    given = {"pgd": PGD(), "own": PGD(LARGE)}
    assert under_threat(given, None, None) == given


def test_a_norm_that_an_attack_does_not_work_in_is_refused() -> None:
    with pytest.raises(ValueError, match="CW works in l2 alone, got a threat in linf"):
        under_threat({"cw": CW(Threat("l2", 1.0))}, None, LARGE)


def test_the_training_threat_is_that_of_an_attack() -> None:
    assert training_threat(SimpleNamespace(attack=PGD(LARGE))) == LARGE
    assert training_threat(SimpleNamespace(attack=True)) is None
    assert training_threat(SimpleNamespace()) is None


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ({"trained_at": SMALL}, "linf 0.1"),
        ({"trained_at": LARGE}, None),
        ({"trained_at": Threat("linf", 0.3, lower=-1.0)}, None),  # of the same norm and radius
        ({"trained_at": None, "attack": PGD(SMALL)}, None),  # trained without an attack
        ({"attack": PGD(SMALL)}, "linf 0.1"),
        ({"attack": PGD(Threat("l2", 0.3))}, "l2 0.3"),
        ({"trained_at": "noon"}, None),
        ({}, None),
    ],
)
def test_another_radius_than_the_trainings_is_told(module: dict[str, object], told: str | None) -> None:
    assert mismatch(SimpleNamespace(**module), {"a": PGD(LARGE), "b": PGD(LARGE)}) == told
    assert mismatch(SimpleNamespace(**module), {}) is None
