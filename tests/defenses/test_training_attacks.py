"""Other attacks than PGD in training, and methods that take PGD alone."""

from typing import Any

import pytest
import torch
from torch import nn

from lightning_robust.attacks import APGD, PGD, Square, TrainingAPGD
from lightning_robust.callbacks import AttackStrength
from lightning_robust.defenses import AT, IAAT, MART, ST, TRADES, Defense, FreeAT
from lightning_robust.losses import cross_entropy
from lightning_robust.schedules import Linear
from lightning_robust.threat import Threat
from lightning_robust.types import Batch
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, plain_net

X, Y = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


@pytest.mark.parametrize("attack", [TrainingAPGD(Threat(eps=0.1)), Square(Threat(eps=0.1), queries=3)])
@pytest.mark.parametrize("method", [AT, MART])
def test_a_method_trains_on_whatever_attack_it_is_given(method: Any, attack: Any) -> None:
    defense = method(plain_net(), attack=attack)
    batch = Batch(X, Y)
    examples = defense.generate(batch).adv
    assert torch.equal(examples, attack(defense.net, X, Y, rng=defense.rng(batch)))
    assert not torch.equal(examples, X)
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(defense, Few())
    assert torch.isfinite(trainer.callback_metrics["train/loss"])


def test_every_sample_takes_every_step_and_ends_at_its_highest_point() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 3)).double()
    x = X.double()
    wrong = net(x).argmax(1) != Y
    assert wrong.any()
    x_adv = TrainingAPGD(Threat(eps=0.1), steps=4)(net, x, Y)
    assert (x_adv != x).flatten(1).any(1).all()  # those that are misclassified from the start, too
    assert (cross_entropy(net(x_adv), Y) >= cross_entropy(net(x), Y)).all()
    further = TrainingAPGD(Threat(eps=0.1), steps=20)(net, x, Y)
    assert cross_entropy(net(further), Y).mean() >= cross_entropy(net(x_adv), Y).mean()


@pytest.mark.parametrize("method", [IAAT, ST, FreeAT])
def test_methods_that_move_examples_in_their_own_way_say_that_they_take_pgd(method: type[Defense]) -> None:
    with pytest.raises(ValueError, match=rf"{method.__name__} moves .* but its attack is TrainingAPGD: set it to PGD"):
        method(plain_net(), attack=TrainingAPGD())


def test_an_attack_without_reference_logits_is_refused_by_trades() -> None:
    with pytest.raises(ValueError, match="APGD needs labels as its target"):
        TRADES(plain_net(), attack=APGD(steps=2)).generate(Batch(X, Y))
    kept = TRADES(plain_net(), attack=APGD(steps=2), ascend="ce").generate(Batch(X, Y))
    assert kept.adv.shape == X.shape


@pytest.mark.parametrize("kind", [TrainingAPGD, PGD])
def test_trades_refuses_attacks_that_start_where_its_divergence_has_no_gradient(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"has no gradient at the clean image, .*: set its start to normal or uniform"):
        TRADES(plain_net(), attack=kind(Threat(eps=0.1), start="none"))
    moved = TRADES(plain_net(), attack=kind(Threat(eps=0.1), start="normal")).generate(Batch(X, Y)).adv
    assert ((moved - X).abs() > 0.05).any()


@pytest.mark.parametrize("attack", [TrainingAPGD(Threat(eps=0.2)), PGD(Threat(eps=0.2), steps=2)])
def test_attack_strength_sets_radius_and_steps_of_either(attack: Any) -> None:
    defense = AT(plain_net(), attack=attack)
    ramp = AttackStrength(eps=Linear(0.1, 0.2, epochs=1), steps=Linear(1, 3, epochs=1))
    trainer = quiet_trainer(max_epochs=2, limit_val_batches=0, callbacks=[ramp])
    trainer.fit(defense, Few())
    assert float(trainer.callback_metrics["train/attack_eps"]) == pytest.approx(0.2)
    assert float(trainer.callback_metrics["train/attack_steps"]) == 3
    assert defense.attack is attack
