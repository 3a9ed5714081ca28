"""TRADES by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from torch import Tensor

from lightning_robust.attacks import PGD
from lightning_robust.defenses import TRADES, Standard
from lightning_robust.parts.reweighting import MarginWeights
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Views
from tests.helpers.few import norm_net, plain_net
from tests.helpers.foreign import images
from tests.helpers.toys import finite_differences, linear_net

X, Y = images(6).tensors
BATCH = Batch(X.double(), Y)
VIEWS = Views(images(6, seed=9).tensors[0].double())


def gradients(defense: Any, batch: Batch = BATCH, views: Views = VIEWS) -> list[Tensor]:
    return list(torch.autograd.grad(defense.loss(batch, views).total.mean(), list(defense.net.parameters())))


def softmax(z: Tensor) -> Any:
    return torch.softmax(z.detach(), dim=1).numpy()


def test_the_loss_is_cross_entropy_and_beta_times_kl() -> None:
    net = plain_net(dtype=torch.float64)
    losses = TRADES(net, beta=3.0).loss(BATCH, VIEWS)
    p, p_adv = softmax(net(BATCH.x)), softmax(net(VIEWS.adv))
    natural, robust = -np.log(p[range(6), Y.numpy()]), rel_entr(p, p_adv).sum(1)
    np.testing.assert_allclose(losses.total.detach().numpy(), natural + 3 * robust, rtol=1e-9)
    np.testing.assert_allclose(losses.parts["natural"].detach().numpy(), natural, rtol=1e-9)
    np.testing.assert_allclose(losses.parts["robust"].detach().numpy(), robust, rtol=1e-9)
    assert torch.equal(losses.logits_adv, net(VIEWS.adv))


def test_gradients_flow_through_both_outputs() -> None:
    defense = TRADES(plain_net(dtype=torch.float64), beta=3.0)
    expected = finite_differences(lambda: defense.loss(BATCH, VIEWS).total.mean(), defense.net.parameters())
    torch.testing.assert_close(gradients(defense), expected, rtol=1e-5, atol=1e-8)


def test_without_the_robust_term_it_is_plain_training() -> None:
    plain = gradients(Standard(norm_net().double()), views=Views(BATCH.x))
    torch.testing.assert_close(gradients(TRADES(norm_net().double(), beta=0.0)), plain, rtol=1e-12, atol=1e-15)
    assert not torch.allclose(gradients(TRADES(norm_net().double(), beta=1.0))[0], plain[0], rtol=1e-3)


def test_the_attack_ascends_the_divergence_or_the_cross_entropy() -> None:
    net, attack = plain_net(dtype=torch.float64), PGD(Threat(eps=0.1), steps=3, start="none")
    by_ce = TRADES(net, attack=attack, ascend="ce").generate(BATCH).adv
    assert torch.equal(by_ce, attack(net, BATCH.x, BATCH.y))
    assert not torch.equal(by_ce, TRADES(net, attack=PGD(Threat(eps=0.1), steps=3)).generate(BATCH).adv)
    with pytest.raises(ValueError, match="choose kl or ce"):
        TRADES(net, ascend="margin")  # type: ignore[arg-type]


def test_a_second_clean_forward_moves_the_running_statistics_and_nothing_else() -> None:
    one, two = (TRADES(norm_net().double(), clean_forwards=n) for n in (1, 2))
    torch.testing.assert_close(gradients(one), gradients(two), rtol=1e-12, atol=1e-15)
    mean = {d: torch.zeros(1, dtype=torch.float64) for d in (one, two)}
    for d, seen in ((one, [BATCH.x, VIEWS.adv]), (two, [BATCH.x, VIEWS.adv, BATCH.x])):
        for x in seen:
            mean[d] = 0.9 * mean[d] + 0.1 * x.mean()
        torch.testing.assert_close(d.net[0].running_mean, mean[d])
        assert int(d.net[0].num_batches_tracked) == len(seen)


def test_a_reweighting_weighs_the_robust_term_alone() -> None:
    net, weigh = plain_net(dtype=torch.float64), MarginWeights(0.0, 2.0, start_epoch=0)
    plain, weighed = TRADES(net, beta=3.0), TRADES(net, beta=3.0, reweighting=weigh)
    a, b = plain.loss(BATCH, VIEWS), weighed.loss(BATCH, VIEWS)
    w = weigh(net(VIEWS.adv), Y, 0)
    torch.testing.assert_close(b.total, a.parts["natural"] + 3 * w * a.parts["robust"])
    assert (w - 1).abs().min() > 1e-3


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_attack_climbs_the_kl_not_the_cross_entropy(norm: Any) -> None:
    """Logits (s, -s) of s = w.x: KL grows away from the clean output, in either direction, whatever the label."""
    w = torch.randn(16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    net = linear_net(torch.stack([w, -w]))
    grey = torch.full((8, 1, 4, 4), 0.5, dtype=torch.float64)
    attack = PGD(Threat(norm, 0.1), steps=100, step_size=0.02)
    x_adv = TRADES(net, attack=attack).generate(Batch(grey, torch.zeros(8, dtype=torch.long), torch.arange(8))).adv
    corner = 0.1 * (w.sign() if norm == "linf" else w / w.norm()).view(1, 4, 4)
    along = ((x_adv - grey) * corner).flatten(1).sum(1).sign().view(-1, 1, 1, 1)
    torch.testing.assert_close(x_adv, grey + along * corner, rtol=1e-4, atol=1e-4)
    assert len(along.unique()) == 2


@pytest.mark.parametrize("settings", [{"beta": -1.0}, {"clean_forwards": 3}])
def test_settings_out_of_range_are_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match=r"TRADES needs beta >= 0 and clean_forwards 1 or 2, got"):
        TRADES(plain_net(), **settings)
