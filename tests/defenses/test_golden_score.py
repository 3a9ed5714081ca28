"""SCORE and its form of adversarial training against what the authors' code computed, in float64."""

from typing import Any

import pytest
import torch

from lightning_robust.defenses import SCORE, SCOREAT
from tests.helpers.second_ring import RING, assert_same_step, of, recorded, replayed


def test_score_at() -> None:
    record = RING["score_at"]
    defense = SCOREAT(
        recorded(record["base"]), of(record, "clip_bound").item(), attack=replayed(record), attack_bn="train"
    )
    losses = assert_same_step(defense, record)
    torch.testing.assert_close(losses.total, of(record, "per_sample").double(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["score_trades", "score_trades_not_clip_clean"])
def test_without_generated_images(name: str) -> None:
    record = RING[name]
    h = record["hparams"]
    defense = SCORE(
        recorded(record["base"]),
        beta=h["TRADESlambda"],
        clip=of(record, "clip_bound").item(),
        clipped="robust" if h["not_clip_clean"] else "all",
        adversarial_first=True,
        attack=replayed(record),
    )
    losses = assert_same_step(defense, record)
    torch.testing.assert_close(losses.total, of(record, "per_sample").double(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["score_at", "score_trades", "score_trades_not_clip_clean"])
def test_the_clip_is_that_of_the_probability_that_may_be_missing(name: str) -> None:
    record = RING[name]
    k, c = RING["common"]["arch"]["classes"], record["hparams"]["clip_loss"]
    assert of(record, "clip_bound").item() == pytest.approx(c**2 * k / (k - 1), rel=1e-6)


@pytest.mark.parametrize("name", ["score_wa", "score_wa_ls_clip"])
def test_with_generated_images(name: str) -> None:
    record = RING[name]
    h, k = record["hparams"], RING["common"]["arch"]["classes"]
    given: dict[str, Any] = {"attack": replayed(record), "attack_bn": "batch"}
    defense = SCORE(recorded(record["base"]), beta=h["beta"], clip=h["clip_value"], **given)
    assert_same_step(defense, record, smoothing=h["label_smoothing"] * k / (k - 1))
