"""The share of the batches that start at their clean images."""

from typing import Any

import pytest
import torch

from lightning_robust.attacks import PGD
from lightning_robust.defenses import ST, TRADES
from lightning_robust.runtime.rng import SampleRNG, training_rng
from lightning_robust.threat import Threat
from lightning_robust.types import Batch
from tests.helpers.few import plain_net

X, Y = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


def starts(share: float, rng: SampleRNG) -> torch.Tensor:
    return PGD(Threat(eps=0.1), steps=0, clean_start=share)(plain_net(), X, Y, rng=rng)


def test_each_batch_starts_clean_or_not_with_all_its_samples_on_all_ranks() -> None:
    clean, batches = 0, 500
    for number in range(batches):
        ranks = [starts(0.2, training_rng(3, number // 50, number % 50, rank, Batch(X, Y))) for rank in (0, 1)]
        still = [(points == X).flatten(1).all(1) for points in ranks]
        assert still[0].all() or not still[0].any()
        assert torch.equal(*still)
        assert still[0].all() or not torch.equal(*ranks)  # without positions, ranks have noise of their own
        clean += int(still[0].all())
    assert clean / batches == pytest.approx(0.2, abs=0.06)  # three standard deviations


@pytest.mark.parametrize(("share", "start"), [(1.0, "none"), (0.0, "uniform")])
def test_at_its_ends_it_is_another_start(share: float, start: Any) -> None:
    rng = SampleRNG(5, torch.arange(6))
    other = PGD(Threat(eps=0.1), steps=3, start=start)(plain_net(), X, Y, rng=SampleRNG(5, torch.arange(6)))
    assert torch.equal(PGD(Threat(eps=0.1), steps=3, clean_start=share)(plain_net(), X, Y, rng=rng), other)


def test_restarts_are_uniform() -> None:
    net = plain_net()
    y = net(X).argmax(1)  # all are right, so that each restarts
    once, often = (PGD(Threat(eps=0.5), steps=0, clean_start=1.0, restarts=n)(net, X, y) for n in (1, 9))
    assert torch.equal(once, X)
    assert not torch.equal(often, X)


def test_targets_and_starts_are_those_of_xie_et_al() -> None:
    """With random targets, as in their training, a clean start is the clean image still."""
    attack = PGD(Threat(eps=0.1), steps=0, targeted=True, random_targets=3, clean_start=1.0)
    assert torch.equal(attack(plain_net(), X, Y), X)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: PGD(clean_start=1.2), r"clean_start must be a probability in \[0, 1\], got 1.2"),
        (lambda: TRADES(plain_net(), attack=PGD(clean_start=0.2)), "has no gradient at the clean image"),
        (
            lambda: ST(plain_net(), attack=PGD(clean_start=0.2)),
            "momentum, restarts and clean_start out",
        ),
    ],
)
def test_what_it_cannot_be_is_told(make: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()
