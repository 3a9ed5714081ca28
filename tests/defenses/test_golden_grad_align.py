"""Gradient alignment against what the authors' code computed, in float64: penalty, cosines and the whole step."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_robust.attacks import PGD
from lightning_robust.defenses import AT, Defense, Standard
from lightning_robust.parts import GradAlign
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Views
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, norm_net, plain_net
from tests.helpers.second_ring import RING, assert_same_gradients_and_buffers, batch, of, recorded

RECORDS = ["grad_align", "grad_align_both"]


class Recorded(SampleRNG):
    """The record's random points in place of random numbers."""

    def __init__(self, record: dict[str, Any]) -> None:
        super().__init__(0, torch.arange(len(batch().x)))
        moved = of(record, "x_random").double() - batch().x
        self.draw = (moved / record["hparams"]["eps"] + 1) / 2

    def uniform(self, like: Tensor) -> Tensor:
        return self.draw


def made(name: str) -> tuple[Defense, GradAlign, dict[str, Any]]:
    record = RING[name]
    h = record["hparams"]
    penalty = GradAlign(h["coefficient"], detach=name == "grad_align", bn="train")
    given: dict[str, Any] = {"regularizers": penalty}
    if name == "grad_align_both":
        return Standard(recorded(record["base"]), attack=PGD(Threat("linf", h["eps"])), **given), penalty, record
    attack = PGD(Threat("linf", h["eps"]), steps=1, step_size=h["fgsm_alpha"] * h["eps"], start="none")
    return AT(recorded(record["base"]), attack=attack, attack_bn="train", **given), penalty, record


def penalised(defense: Defense, penalty: GradAlign, record: dict[str, Any], views: Views) -> Tensor:
    return penalty.in_step(defense.net, batch(), views, 0, defense.attack.threat, Recorded(record))


@pytest.mark.parametrize("name", RECORDS)
def test_step(name: str) -> None:
    defense, penalty, record = made(name)
    views = defense.generate(batch())
    torch.testing.assert_close(views.adv, of(record, "x_adv").double(), rtol=0, atol=1e-9)
    total = defense.loss(batch(), views).total + penalised(defense, penalty, record, views)
    torch.testing.assert_close(total.mean(), of(record, "loss").double(), rtol=1e-9, atol=0)
    assert_same_gradients_and_buffers(defense.net, total.mean(), record)


@pytest.mark.parametrize("name", RECORDS)
def test_penalty(name: str) -> None:
    defense, penalty, record = made(name)
    values = penalised(defense, penalty, record, Views(batch().x))
    expected = record["hparams"]["coefficient"] * (1 - of(record, "cos").double())
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(values.mean(), of(record, "penalty").double(), rtol=1e-9, atol=0)
    values.mean().backward()
    for parameter, value in defense.net.named_parameters():
        theirs = of(record, "penalty_grads")[parameter].double()
        ours = torch.zeros_like(value) if value.grad is None else value.grad
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, msg=parameter)


X, Y = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


@pytest.mark.parametrize("size", [1.0, 1e-30])
def test_samples_without_a_gradient_add_nothing_and_small_ones_count(size: float) -> None:
    """Where the first two images lead to equal logits whatever their pixels; squares of the others' may underflow."""

    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain_net()

        def forward(self, x: Tensor) -> Tensor:
            seen = (torch.arange(len(x)) >= 2).to(x)
            return self.net(x) * size * seen[:, None] + self.net[3].bias

    net = Blind()
    penalty = GradAlign(1.0)(net, Batch(X, Y), Views(X), 0)
    assert (penalty[:2] == 0).all()
    assert (penalty[2:] > 0).all()
    penalty.mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    assert net.net[0].weight.grad.abs().max() > 0


def test_a_linear_net_is_aligned() -> None:
    """With two classes, whose gradient always has the same direction."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    assert GradAlign(1.0)(net, Batch(X, Y % 2), Views(X), 0).abs().max() < 1e-6


def test_in_training_it_has_the_attacks_radius_and_points_of_its_own() -> None:
    seen: list[Any] = []

    class Seen(GradAlign):
        def in_step(self, net: Any, batch: Batch, views: Views, epoch: int, threat: Threat, rng: Any) -> Tensor:
            seen.append((threat.eps, Threat(eps=0.2).random(batch.x, rng) - batch.x, views.adv - batch.x))
            return super().in_step(net, batch, views, epoch, threat, rng)

    attack = PGD(Threat(eps=0.2), steps=0)
    defense = AT(plain_net(), attack=attack, regularizers=[Seen(0.1), Seen(0.1)])
    quiet_trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=0).fit(defense, Few())
    assert {eps for eps, _, _ in seen} == {0.2}
    points = [points for _, points, _ in seen] + [seen[0][2]]
    assert not any(torch.equal(a, b) for i, a in enumerate(points) for b in points[:i])


@pytest.mark.parametrize(("bn", "moves"), [("eval", False), ("batch", False), ("train", True)])
def test_the_mode_of_batch_norms(bn: Any, moves: bool) -> None:
    net = norm_net()
    before = net[0].running_mean.clone()
    GradAlign(1.0, bn=bn)(net, Batch(X, Y), Views(X), 0)
    assert torch.equal(before, net[0].running_mean) != moves
    assert net.training


@pytest.mark.parametrize("given", [{"weight": -1.0}, {"bn": "running"}])
def test_settings_out_of_range_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="GradAlign needs weight >= 0 and bn eval, batch or train"):
        GradAlign(**given)
