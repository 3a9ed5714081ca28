"""Adversarial logit pairing against what the authors' code computed, in float64."""

from lightning_robust.defenses import ALP
from tests.helpers.second_ring import RING, assert_same_step, recorded, replayed


def test_step() -> None:
    record = RING["alp"]
    assert_same_step(ALP(recorded(record["base"]), record["hparams"]["beta"], attack=replayed(record)), record)
