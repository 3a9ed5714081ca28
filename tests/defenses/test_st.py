"""Squeeze training by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_robust.attacks import PGD
from lightning_robust.defenses import ST, Standard
from lightning_robust.parts.reweighting import MarginWeights
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Losses, Views
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import norm_net, plain_net
from tests.helpers.foreign import images, loader

X, Y = images(6).tensors
BATCH = Batch(X.double(), Y)
VIEWS = Views(*(images(6, seed=seed).tensors[0].double() for seed in (8, 9)))
ATTACK = PGD(Threat(eps=0.1), steps=3, start="normal")


def by_hand(net: nn.Module, beta: float) -> Tensor:
    """Sample by sample, with the symmetric KL written out."""
    total = []
    for i, y in enumerate(Y):
        logits = torch.cat([net(x[i : i + 1]) for x in (BATCH.x, VIEWS.col, VIEWS.adv)]).detach()
        p = logits.softmax(1)
        up, low = p[p[:, y].argmin()], p[p[:, y].argmax()]
        gap = ((up * (up / low).log()).sum() + (low * (low / up).log()).sum()) / 2
        total.append(cross_entropy(logits[:1], y[None]) + beta * gap)
    return torch.stack(total)


def test_the_loss_is_cross_entropy_and_beta_times_the_gap_of_the_extremes() -> None:
    net = plain_net(dtype=torch.float64)
    losses = ST(net, beta=3.0).loss(BATCH, VIEWS)
    torch.testing.assert_close(losses.total, by_hand(net, 3.0))
    torch.testing.assert_close(losses.total, losses.parts["natural"] + 3 * losses.parts["squeeze"])
    ce = [cross_entropy(net(x), Y, reduction="none") for x in (VIEWS.adv, VIEWS.col)]
    torch.testing.assert_close(losses.parts["gap"], ce[0] - ce[1])
    assert not losses.parts["gap"].requires_grad


def test_the_gradient_holds_the_targets_constant() -> None:
    """On the logits it is p - one-hot, and beta/2 times the difference of the extremes' probabilities."""

    class Logits(nn.Module):
        """Gives back parameters: one row for each of the 18 images."""

        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.randn(3, 6, 3, generator=torch.Generator().manual_seed(0)).double())

        def forward(self, x: Tensor) -> Tensor:
            return self.rows[int(x[0, 0, 0, 0])]

    def numbered(k: int) -> Tensor:
        return torch.full((6, 1, 1, 1), float(k))

    net = Logits()
    loss = ST(net, beta=3.0).loss(Batch(numbered(0), Y), Views(adv=numbered(2), col=numbered(1))).total.sum()
    (gradient,) = torch.autograd.grad(loss, net.rows)
    p = net.rows.detach().softmax(2)
    expected = torch.zeros_like(p)
    expected[0] = p[0] - nn.functional.one_hot(Y, 3)
    for i, y in enumerate(Y):
        up, low = p[:, i, y].argmin(), p[:, i, y].argmax()
        expected[up, i] += 1.5 * (p[up, i] - p[low, i])
        expected[low, i] += 1.5 * (p[low, i] - p[up, i])
    torch.testing.assert_close(gradient, expected)


def test_running_statistics_see_the_clean_then_the_adversarial_batch_and_never_the_collaborative() -> None:
    defense = ST(norm_net().double(), attack=ATTACK)
    views = defense.generate(BATCH)
    assert int(defense.net[0].num_batches_tracked) == 0
    defense.loss(BATCH, views)
    assert int(defense.net[0].num_batches_tracked) == 2
    expected = 0.9 * 0.1 * BATCH.x.mean() + 0.1 * views.adv.mean()
    torch.testing.assert_close(defense.net[0].running_mean[0], expected)


def test_without_the_gap_it_is_plain_training() -> None:
    found = []
    for defense, views in ((ST(norm_net().double(), beta=0.0), VIEWS), (Standard(norm_net().double()), Views(BATCH.x))):
        loss = defense.loss(BATCH, views).total.mean()
        found.append(list(torch.autograd.grad(loss, list(defense.net.parameters()))))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-15)


def test_a_reweighting_weighs_the_gap() -> None:
    net, weigh = plain_net(dtype=torch.float64), MarginWeights(0.0, 2.0, start_epoch=0)
    plain, weighed = ST(net).loss(BATCH, VIEWS), ST(net, reweighting=weigh).loss(BATCH, VIEWS)
    w = weigh(net(VIEWS.adv), Y, 0)
    torch.testing.assert_close(weighed.parts["squeeze"], w * plain.parts["squeeze"])
    torch.testing.assert_close(weighed.parts["natural"], plain.parts["natural"])


@pytest.mark.parametrize(("discrepancy", "beta"), [("symmetric_kl", 20.0), ("js", 80.0), ("l2", 20.0)])
def test_training_narrows_the_gap(discrepancy: Any, beta: float) -> None:
    gaps = []

    class Watched(ST):
        def loss(self, batch: Batch, views: Views) -> Losses:
            losses = super().loss(batch, views)
            gaps.append(float(losses.parts["gap"].mean()))
            return losses

    defense = Watched(
        plain_net(),
        beta=beta,
        discrepancy=discrepancy,
        attack=ATTACK,
        optimizer=lambda params: torch.optim.SGD(params, lr=0.1),
    )
    trainer = quiet_trainer(max_epochs=10)
    trainer.fit(defense, loader(8))
    assert min(gaps) > 0
    assert gaps[-1] < 0.7 * gaps[0]
    assert float(trainer.callback_metrics["train/gap"]) == pytest.approx(sum(gaps[-2:]) / 2, rel=1e-5)


@pytest.mark.parametrize("settings", [{"beta": -1.0}, {"discrepancy": "tv"}])
def test_settings_out_of_range_are_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match=r"ST needs beta >= 0 and a discrepancy among symmetric_kl, js, l2, got"):
        ST(plain_net(), **settings)


@pytest.mark.parametrize("settings", [{"targeted": True, "random_targets": 3}, {"momentum": 0.9}, {"restarts": 2}])
def test_settings_of_the_attack_that_are_not_used_are_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match="of the attack it takes threat, steps, step_size and start"):
        ST(plain_net(), attack=PGD(start="normal", **settings))
