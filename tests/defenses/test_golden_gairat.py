"""GAIRAT against what the authors' code computed, in float64: kappa, weights and the step."""

from typing import Any

import pytest
import torch

from lightning_robust.attacks import APGD, PGD, Ensemble
from lightning_robust.defenses import AT, GAIRAT, IAAT, MART, TRADES
from lightning_robust.parts import KappaWeights
from lightning_robust.threat import Threat
from lightning_robust.types import Batch
from tests.helpers.few import plain_net
from tests.helpers.second_ring import RING, assert_same_step, batch, of, recorded, replayed

RECORD = RING["gairat"]


def made(start_epoch: int, name: str = "gairat", **settings: Any) -> GAIRAT:
    record = RING[name]
    shift = record["hparams"]["Lambda"]
    return GAIRAT(recorded(record["base"]), shift, start_epoch=start_epoch, attack=replayed(record), **settings)


def test_step() -> None:
    defense = made(0)
    assert_same_step(defense, RECORD)
    (weights,) = defense.reweightings
    assert torch.equal(weights._kappa, RECORD["kappa"])


def test_before_the_start_epoch() -> None:
    assert_same_step(made(1, "gairat_before"), RING["gairat_before"])


@pytest.mark.parametrize(
    ("function", "key"), [("tanh", "weights"), ("sigmoid", "weights_sigmoid"), ("discrete", "weights_discrete")]
)
def test_weights(function: Any, key: str) -> None:
    defense = made(0, function=function)
    views = defense.generate(batch())
    (weights,) = defense.reweightings
    found = weights(defense.logits(views.adv).detach(), batch().y, epoch=0)
    torch.testing.assert_close(found, of(RECORD, key).double(), rtol=1e-9, atol=1e-12)


X, Y = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


@pytest.mark.parametrize("method", [TRADES, MART])
def test_other_methods_are_weighted_by_kappa(method: Any) -> None:
    """Counted by hand: the net on each of the attack's points, found by attacks of fewer steps."""
    weights = KappaWeights(start_epoch=0)
    net, attack = plain_net(), PGD(Threat(eps=0.3), steps=4, start="normal")
    defense = method(net, reweighting=weights, attack=attack)
    defense._draws = 0
    views = defense.generate(Batch(X, Y))
    points = []
    for steps in range(4):
        shorter = method(net, attack=PGD(Threat(eps=0.3), steps=steps, step_size=2.5 * 0.3 / 4, start="normal"))
        shorter._draws = 0
        points.append(net(shorter.generate(Batch(X, Y)).adv).argmax(1) == Y)
    kappa = torch.stack(points).sum(0)
    assert len(kappa.unique()) > 1
    expected = (torch.tanh(-1 + 5 * (1 - kappa / 2)) + 1) / 2
    expected = expected / expected.mean()
    losses, plain = (d.loss(Batch(X, Y), views) for d in (defense, method(net, attack=attack)))
    name = "robust" if method is TRADES else "boosted"
    torch.testing.assert_close(losses.parts[name], expected * plain.parts[name], rtol=1e-4, atol=1e-6)


def test_an_attack_of_one_step_has_weights() -> None:
    defense = GAIRAT(plain_net(), start_epoch=0, attack=PGD(steps=1))
    assert defense.loss(Batch(X, Y), defense.generate(Batch(X, Y))).total.isfinite().all()


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (PGD(restarts=2), "points of several restarts cannot be watched"),
        (APGD(), "APGD does not use watch"),
        (Ensemble({"pgd": PGD(Threat())}), "Ensemble does not use watch"),
        (PGD(steps=0), "KappaWeights count .* but saw none of it"),
    ],
)
def test_attacks_that_cannot_be_watched_are_refused(attack: Any, message: str) -> None:
    defense = GAIRAT(plain_net(), start_epoch=0, attack=attack)
    with pytest.raises(ValueError, match=message):
        defense.loss(Batch(X, Y), defense.generate(Batch(X, Y)))


@pytest.mark.parametrize("start_epoch", [0, 59])
def test_a_method_that_attacks_in_its_own_way_is_refused_at_once(start_epoch: int) -> None:
    defense = IAAT(plain_net(), warmup=0, reweighting=KappaWeights(start_epoch=start_epoch))
    defense.radii.prepare(6, torch.device("cpu"))
    given = Batch(X, Y, torch.arange(6))
    with pytest.raises(ValueError, match="saw none of it"):
        defense.loss(given, defense.generate(given))


def test_an_unknown_function_is_refused() -> None:
    with pytest.raises(ValueError, match="Unknown function 'cubic': choose tanh, sigmoid or discrete"):
        KappaWeights(function="cubic")  # type: ignore[arg-type]
    assert not AT(plain_net(), reweighting=KappaWeights()).reweightings[0]._points
