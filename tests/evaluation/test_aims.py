"""Attacks that lead towards the true labels are refused wherever true labels are all that they get."""

from typing import Any

import pytest

from lightning_robust.attacks import CW, FAB, PGD, AutoAttack, Collaborative, Ensemble
from lightning_robust.callbacks import AdversarialInputs, RobustEvaluation

LEADING = {
    "PGD": lambda: PGD(targeted=True),
    "PGD on the margin": lambda: PGD(targeted=True, loss="margin"),
    "Collaborative": lambda: Collaborative(),
    "in an ensemble": lambda: Ensemble({"pgd": PGD(), "col": Collaborative()}),
    "in an ensemble's ensemble": lambda: Ensemble({"a": Ensemble({"b": PGD(targeted=True)}), "pgd": PGD()}),
}
AWAY = [PGD(), PGD(targeted=True, random_targets=10), FAB(targets=3), CW(), AutoAttack(), Ensemble({"pgd": PGD()})]


@pytest.mark.parametrize("make", LEADING.values(), ids=LEADING)
def test_what_leads_to_the_labels_is_refused(make: Any) -> None:
    told = r"is targeted: .* Set targeted to false, or random_targets to the number of classes\."
    with pytest.raises(ValueError, match=rf"The attack 'mine' \((PGD|Collaborative)\) {told}"):
        RobustEvaluation({"mine": make()})
    with pytest.raises(ValueError, match=told):
        RobustEvaluation({}, fit_attacks={"mine": make()})
    with pytest.raises(ValueError, match=told):
        AdversarialInputs(make())


def test_what_leads_away_passes() -> None:
    for attack in AWAY:
        RobustEvaluation({"mine": attack})
        AdversarialInputs(attack)
