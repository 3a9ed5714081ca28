"""One of each attack, with few steps, for what holds of all of them."""

import pytest

from lightning_robust.attacks import (
    APGD,
    CW,
    DDN,
    FAB,
    FMN,
    PDPGD,
    PGD,
    Attack,
    AutoAttack,
    DeepFool,
    Ensemble,
    HopSkipJump,
    NearestExamples,
    Square,
    SuperDeepFool,
)

EACH: dict[str, Attack] = {
    "pgd": PGD(steps=2),
    "apgd": APGD(steps=3),
    "apgd-t": APGD(steps=3, targets=2),
    "square": Square(queries=5),
    "fab": FAB(steps=2),
    "deepfool": DeepFool(steps=2),
    "fmn": FMN(steps=2),
    "ddn": DDN(steps=2),
    "pdpgd": PDPGD(steps=2),
    "sdf": SuperDeepFool(steps=2),
    "nearest": NearestExamples(attacks={"fmn": FMN(steps=2), "fab": FAB(steps=2)}),
    "cw": CW(steps=2, search_steps=1),
    "hop-skip-jump": HopSkipJump(steps=2, directions=5),
    "ensemble": Ensemble({"a": PGD(steps=1), "b": APGD(steps=2)}),
    "autoattack": AutoAttack(version="rapid"),
}
each = pytest.mark.parametrize("attack", EACH.values(), ids=EACH)
