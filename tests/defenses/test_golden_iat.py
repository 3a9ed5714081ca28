"""Interpolated adversarial training against what a re-implementation computed, in float64."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_robust.attacks import PGD
from lightning_robust.defenses import IAT
from lightning_robust.runtime.modes import frozen_running_stats
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Views
from tests.helpers.few import plain_net
from tests.helpers.second_ring import RING, assert_same_step, batch, of, recorded, replayed

RECORD = RING["iat"]


def test_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference forwards the mixed clean batch before the attack, so its statistics enter here before it, too."""
    defense = IAT(
        recorded(RECORD["base"]), RECORD["hparams"]["mixup_alpha"], attack=replayed(RECORD), attack_bn="train"
    )
    draws = [(RECORD[f"lam_{kind}"], RECORD[f"perm_{kind}"]) for kind in ("nat", "adv")]
    monkeypatch.setattr(defense, "_draw", lambda given, number: draws[number])
    plain, clean = defense.logits, []

    def logits(x: Tensor) -> Tensor:
        if clean:
            return plain(x)
        clean.append(x)
        with frozen_running_stats(defense.net):
            return plain(x)

    share, partner = draws[0]
    defense.net(share * batch().x + (1 - share) * batch().x[partner])
    monkeypatch.setattr(defense, "logits", logits)
    losses = assert_same_step(defense, RECORD)
    for part, name in (("natural", "loss_nat"), ("robust", "loss_adv")):
        torch.testing.assert_close(losses.parts[part].mean(), of(RECORD, name).double(), rtol=1e-9, atol=0)


X, Y = torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 3


def made(**settings: Any) -> IAT:
    return IAT(plain_net(), attack=PGD(Threat(eps=0.1), steps=1), **settings)


def test_it_is_mixup_with_soft_labels() -> None:
    """By torch's cross-entropy of the mixed labels; soft labels of one class are the same."""
    defense, x_adv = made(), (X + 0.1).clamp(0, 1)
    label = F.one_hot(Y, 3).float()
    total = torch.zeros(len(X))
    for number, images in enumerate((X, x_adv)):
        share, partner = defense._draw(Batch(X, Y), number)
        mixed, soft = (share * v + (1 - share) * v[partner] for v in (images, label))
        total += F.cross_entropy(defense.net(mixed), soft, reduction="none") / 2
    for y in (Y, label):
        torch.testing.assert_close(defense.loss(Batch(X, y), Views(x_adv)).total, total)


def test_the_two_draws_differ_and_are_the_same_when_asked_again() -> None:
    defense = made()
    (first, partner), (second, other) = (defense._draw(Batch(X, Y), number) for number in (0, 1))
    assert first != second
    assert not torch.equal(partner, other)
    assert torch.equal(partner.sort().values, torch.arange(64))
    again, partner_again = defense._draw(Batch(X, Y), 0)
    assert again == first
    assert torch.equal(partner, partner_again)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_shares_have_the_distribution(alpha: float) -> None:
    defense, shares = made(alpha=alpha), []
    for number in range(400):
        defense._batch_idx = number
        shares.append(defense._draw(Batch(X, Y), 0)[0])
    assert abs(np.mean(shares) - 0.5) < 0.06
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.25)  # of Beta(alpha, alpha)


def test_an_alpha_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="alpha must be > 0, got 0"):
        made(alpha=0)
