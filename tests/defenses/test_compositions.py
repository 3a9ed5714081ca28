"""Parts that a preset brings and parts that are given join: weights, penalties and perturbations."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_robust.attacks import PGD
from lightning_robust.defenses import AT, AWP, EMR, MAIL, MART, TRADES
from lightning_robust.parts import AdversarialWeightPerturbation, RobustWeightPerturbation
from lightning_robust.parts.regularizers import EffectiveWeightNorm, InputGradient
from lightning_robust.parts.reweighting import MarginWeights, Reweighting
from lightning_robust.types import Batch, Views
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, plain_net

X, Y = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


class Halves(Reweighting):
    def __call__(self, logits_adv: Tensor, y: Tensor, epoch: int) -> Tensor:
        return torch.full((len(y),), 0.5)


def logged(defense: Any, **settings: Any) -> dict[str, float]:
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0, **settings)
    trainer.fit(defense, Few())
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_mails_weights_are_multiplied_by_further_ones() -> None:
    net = plain_net()
    batch, views = Batch(X, Y), Views(X)
    alone = MAIL(net, start_epoch=0).loss(batch, views).total
    torch.testing.assert_close(MAIL(net, start_epoch=0, reweighting=[Halves()]).loss(batch, views).total, alone / 2)
    both = TRADES(net, reweighting=[Halves(), Halves()]).loss(batch, views).parts["robust"]
    torch.testing.assert_close(both, TRADES(net).loss(batch, views).parts["robust"] / 4)
    weighted = MART(net, reweighting=[MarginWeights(start_epoch=0), Halves()]).loss(batch, views).parts["boosted"]
    once = MART(net, reweighting=MarginWeights(start_epoch=0)).loss(batch, views).parts["boosted"]
    torch.testing.assert_close(weighted, once / 2)


def test_each_penalty_counts_and_is_logged_under_a_name_of_its_own() -> None:
    given: dict[str, Any] = {"attack": PGD(steps=1)}
    one, two, three = EffectiveWeightNorm(0.1, 40.0), EffectiveWeightNorm(0.3, 40.0), InputGradient(0.2)
    alone = [logged(AT(plain_net(), regularizers=[part], **given)) for part in (one, two, three)]
    found = logged(EMR(plain_net(), weight=0.1, regularizers=[two, three], **given))
    assert found["train/emr"] == pytest.approx(alone[0]["train/emr"])
    assert found["train/emr_2"] == pytest.approx(alone[1]["train/emr"])
    assert found["train/input_gradient"] == pytest.approx(alone[2]["train/input_gradient"])
    bare = logged(AT(plain_net(), **given))["train/loss"]
    assert found["train/loss"] - bare == pytest.approx(sum(a["train/loss"] - bare for a in alone), rel=1e-4)


def weights(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters() if p.dim() > 1]).clone()


@pytest.mark.parametrize("restore", ["before_step", "after_step"])
def test_perturbations_follow_one_another_and_are_taken_back(restore: Any) -> None:
    """The second starts where the first has moved the weights; a rate of 0 shows that all is taken back."""
    first = AdversarialWeightPerturbation(0.02, restore=restore)
    second = RobustWeightPerturbation(0.03, threshold=100.0, steps=1, restore=restore)
    seen: list[Tensor] = []

    class Seen(AWP):
        def loss(self, batch: Batch, views: Views) -> Any:
            seen.append(weights(self.net))
            return super().loss(batch, views)

    net = plain_net()
    before = weights(net)
    given = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.0), "attack": PGD(steps=0)}
    logged(Seen(net, gamma=0.02, restore=restore, weight_perturbation=[second], **given))
    torch.testing.assert_close(weights(net), before, atol=1e-7, rtol=1e-6)
    seen = seen[2:]  # the first two calls check that the loss can be called again
    assert torch.equal(seen[0], before)
    assert torch.equal(seen[1], seen[-2])  # where the second looks from: the first's place
    assert not torch.allclose(seen[1], before)
    moved = (seen[-1] - seen[1]).norm() / seen[1].norm()
    assert moved.item() == pytest.approx(0.03, rel=1e-3)
    with pytest.raises(
        ValueError, match="must have the same `restore`: set all to 'before_step' or all to 'after_step'"
    ):
        AT(net, weight_perturbation=[first, AdversarialWeightPerturbation(0.1, restore=OTHER[restore])])


OTHER: Any = {"before_step": "after_step", "after_step": "before_step"}


class Twice(AT):
    """Crafts two examples of each image, both from random starts."""

    crafted: Any = None

    def generate(self, batch: Batch) -> Views:
        self.crafted = (self.craft(batch), self.craft(batch))
        return Views(self.crafted[0])


def test_two_attacks_of_a_step_start_at_different_points() -> None:
    """The first is that of a method with one attack, and a step repeated by hand is the same step."""
    defense, one = Twice(plain_net(), attack=PGD(steps=0)), AT(plain_net(), attack=PGD(steps=0))
    logged(defense)
    first, second = defense.crafted
    assert not torch.equal(first, second)
    batch = Batch(X, Y)
    logged(one)
    assert torch.equal(one.craft(batch), one.craft(batch))


@pytest.mark.parametrize(
    ("method", "name", "part"),
    [
        (MAIL, "reweighting", MarginWeights()),
        (AWP, "weight_perturbation", AdversarialWeightPerturbation()),
        (EMR, "regularizers", InputGradient(0.5)),
        (AT, "regularizers", InputGradient(0.5)),
    ],
)
def test_one_part_several_or_none(method: Any, name: str, part: Any) -> None:
    def parts(**given: Any) -> list[Any]:
        model = method(plain_net(), **given)
        return list(getattr(model, name if name == "regularizers" else f"{name}s"))

    own = len(parts())
    for given, expected in ((None, []), (part, [part]), ([part], [part]), ((part, part), [part, part])):
        assert parts(**{name: given})[own:] == expected
