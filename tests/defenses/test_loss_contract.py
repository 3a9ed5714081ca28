"""What the first step refuses of a method's loss."""

from typing import Any

import pytest
import torch

from lightning_robust.attacks import PGD
from lightning_robust.defenses import AT, ST, TRADES
from lightning_robust.defenses.accumulation import most_batches
from lightning_robust.defenses.loss_contract import check_repeats
from lightning_robust.parts import ASAM, SAM, AdversarialWeightPerturbation, RobustWeightPerturbation
from lightning_robust.types import Batch, Losses, Views
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, norm_net, plain_net

SETTINGS: dict[str, Any] = {"attack": PGD(steps=1)}


def step(defense: Any) -> None:
    quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0).fit(defense, Few())


class Changed(AT):
    """AT whose losses are changed before they are returned."""

    change: Any

    def loss(self, batch: Batch, views: Views) -> Losses:
        return self.change(super().loss(batch, views))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda ls: ls._replace(total=ls.total.mean()),
            r"one value per sample \[4\], but its total has the shape \(\)",
        ),
        (lambda ls: ls._replace(total=ls.total[:, None]), r"its total has the shape \(4, 1\)"),
        (lambda ls: ls._replace(parts={"own": ls.total.sum()}), r"its part 'own' has the shape \(\)"),
        (lambda ls: ls._replace(logits_adv=ls.logits_adv[:2]), r"the logits \[4 k\] of the adversarial examples"),
    ],
)
def test_other_shapes(change: Any, told: str) -> None:
    defense = Changed(plain_net(), **SETTINGS)
    defense.change = change
    with pytest.raises(ValueError, match=f"Changed.loss must give .*{told}"):
        step(defense)


@pytest.mark.parametrize(
    "perturbation", [AdversarialWeightPerturbation(), RobustWeightPerturbation(threshold=100.0, steps=2), SAM(), ASAM()]
)
def test_a_loss_that_changes_when_it_is_called_again(perturbation: Any) -> None:
    calls: list[int] = []

    def growing(losses: Losses) -> Losses:
        calls.append(1)
        return losses._replace(total=losses.total * len(calls))

    defense = Changed(plain_net(), weight_perturbation=perturbation, **SETTINGS)
    defense.change = growing
    with pytest.raises(ValueError, match="other values when it is called again in the same step"):
        step(defense)


@pytest.mark.parametrize("method", [AT, TRADES, ST])
def test_a_nets_own_random_numbers_and_statistics_are_fine(method: Any) -> None:
    net = torch.nn.Sequential(norm_net()[:-1], torch.nn.Dropout(0.5), norm_net()[-1])
    step(method(net, weight_perturbation=AdversarialWeightPerturbation(), **SETTINGS))


@pytest.mark.parametrize("count", [1, 4])
def test_random_numbers_are_kept_on_the_batchs_device_alone(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch would look at each GPU there is, and warn of their number."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: pytest.fail("a GPU was asked"))
    state = torch.get_rng_state()
    check_repeats("Mine", lambda: torch.rand(4), torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_a_schedule_of_accumulation_is_seen_whichever_package_it_is_from(package: str) -> None:
    callbacks = pytest.importorskip(f"{package}.callbacks")
    assert most_batches(2, [callbacks.GradientAccumulationScheduler({0: 1, 5: 4})]) == 4
