"""Lightning's finders of learning rates and batch sizes, and its weight averaging, on adversarial training."""

import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder, StochasticWeightAveraging
from lightning.pytorch.tuner import Tuner
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import AdversarialInputs
from lightning_robust.data import Indexed
from lightning_robust.defenses import (
    ALP,
    AT,
    AVG,
    AWP,
    EAT,
    EMR,
    GAIRAT,
    IAAT,
    IAT,
    MAIL,
    MART,
    SCORE,
    SCOREAT,
    ST,
    TRADES,
    Defense,
    FreeAT,
    Standard,
)
from lightning_robust.parts.lr_schedules import OneCycleLR
from lightning_robust.threat import Threat
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few
from tests.helpers.foreign import ForeignModule, images, loader

FIXED = PGD(Threat(eps=0.2), steps=2, start="none")
MOVED = PGD(Threat(eps=0.2), steps=2, start="normal")
METHODS: dict[str, Callable[..., Defense]] = {
    **{
        method.__name__: method
        for method in (Standard, AT, AVG, EAT, TRADES, MART, EMR, AWP, FreeAT, ALP, IAT, SCOREAT)
    },
    "MAIL": functools.partial(MAIL, start_epoch=0),
    "GAIRAT": functools.partial(GAIRAT, start_epoch=0),
    "IAAT": functools.partial(IAAT, warmup=0),
    "SCORE": functools.partial(SCORE, attack=MOVED),
    "ST": functools.partial(ST, attack=MOVED),
}


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3))


def made(method: str, **settings: Any) -> Defense:
    given = {} if method in ("ST", "SCORE", "TRADES") else {"attack": FIXED}
    return METHODS[method](net(), **given, **settings)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert all(torch.equal(value, other[name]) for name, value in one.items() if name in other)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)  # where the finders leave their checkpoints for a moment
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


@pytest.mark.parametrize("method", METHODS)
def test_a_learning_rate_is_found_and_taken(method: str) -> None:
    """The weights, statistics and memories are then those of before; a fit that follows begins with the rate."""
    defense, trainer = made(method), quiet_trainer(max_epochs=1, num_sanity_val_steps=0)
    data, before = Few(n=64, val_size=4), state(defense)
    found = Tuner(trainer).lr_find(defense, data, num_training=14, min_lr=1e-4, max_lr=1.0)
    assert found is not None
    assert 1e-4 < found.suggestion() < 1.0
    assert_same(before, state(defense))
    assert defense.lr == found.suggestion()
    trainer.fit(defense, data)
    assert {group["lr"] for group in trainer.optimizers[0].param_groups} == {defense.lr}
    assert not torch.equal(before["net.4.weight"], defense.net[4].weight)


def adversarial_loss(reference: nn.Module) -> float:
    """The cross-entropy of PGD's examples of the first batch, in training mode, by a plain loop."""
    x, y = next(iter(loader(48)))
    x_adv = x.clone()
    for _ in range(FIXED.steps):
        z = x_adv.requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(reference.eval()(z), y, reduction="sum"), z)
        x_adv = z.detach() + 2.5 * 0.2 / FIXED.steps * gradient.sign()
        x_adv = torch.minimum(torch.maximum(x_adv, x - 0.2), x + 0.2).clamp(0, 1)
    return float(cross_entropy(reference.train()(x_adv), y).detach())


class Recorded:
    """Remembers the losses of the training steps."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.__dict__.setdefault("losses", []).append(float(loss.detach()))
        return loss


class RecordedAT(Recorded, AT):
    pass


class RecordedForeign(Recorded, ForeignModule):
    pass


def test_the_finder_sees_the_loss_of_adversarial_examples() -> None:
    defense, trainer = RecordedAT(net(), attack=FIXED), quiet_trainer(max_epochs=1, num_sanity_val_steps=0)
    Tuner(trainer).lr_find(defense, loader(48), num_training=3, update_attr=False)
    assert defense.losses[0] == pytest.approx(adversarial_loss(net()), rel=1e-5)


def test_so_does_a_foreign_module_with_adversarial_inputs() -> None:
    """Though the finders set the trainer's other callbacks aside."""
    reference = ForeignModule()
    reference.body[4].p = 0.0  # no dropout, which is random
    expected = adversarial_loss(reference)
    for find in ("lr_find", "scale_batch_size"):
        module = RecordedForeign()
        module.body[4].p = 0.0
        trainer = quiet_trainer(max_epochs=1, num_sanity_val_steps=0, callbacks=[AdversarialInputs(FIXED)])
        if find == "lr_find":
            Tuner(trainer).lr_find(module, loader(48), num_training=3, update_attr=False)
        else:
            data = Few(n=48)
            data.train_dataloader = lambda: loader(48)  # in its order
            Tuner(trainer).scale_batch_size(module, datamodule=data, max_trials=1, init_val=4)
        assert module.losses[0] == pytest.approx(expected, rel=1e-5)
        assert "training_step" not in vars(module)


def test_it_works_as_a_callback_too() -> None:
    defense = made("AT")
    finder = LearningRateFinder(num_training_steps=14, min_lr=1e-4, max_lr=1.0)
    trainer = quiet_trainer(max_epochs=1, num_sanity_val_steps=0, callbacks=[finder])
    trainer.fit(defense, Few(n=64, val_size=4))
    assert finder.optimal_lr.suggestion() == defense.lr == trainer.optimizers[0].param_groups[0]["lr"]


def test_a_schedule_with_rates_of_its_own_is_told_the_found_one() -> None:
    defense = made("AT", scheduler=lambda optimizer: OneCycleLR(optimizer, max_lr=0.1), scheduler_interval="step")
    defense.lr = 0.025
    with pytest.raises(ValueError, match=r"OneCycleLR sets rates of its own: give it the rate that was found, 0\.025"):
        quiet_trainer(max_epochs=1).fit(defense, Few())


@pytest.mark.parametrize("method", ["AT", "IAAT", "FreeAT"])  # one without and two with a memory: it takes seconds
@pytest.mark.slow
def test_a_batch_size_is_found(method: str) -> None:
    defense, data = made(method), Few(n=48, val_size=4)
    before, trainer = state(defense), quiet_trainer(max_epochs=1, num_sanity_val_steps=0)
    assert Tuner(trainer).scale_batch_size(defense, datamodule=data, max_trials=2, init_val=2, steps_per_trial=1) == 4
    assert data.batch_size == 4
    assert_same(before, state(defense))
    trainer.fit(defense, data)


@pytest.mark.parametrize("method", METHODS)
def test_weights_are_averaged_to_the_end(method: str) -> None:
    """The last pass, for batch-norm statistics alone, leaves the averaged weights as they are."""
    averaging = StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1, annealing_epochs=1)
    defense = made(method)
    data = loader(8) if method != "IAAT" else DataLoader(Indexed(images(8)), 4)
    quiet_trainer(max_epochs=2, num_sanity_val_steps=0, callbacks=[averaging]).fit(defense, data)
    averaged = dict(averaging._average_model.named_parameters())
    assert_same(dict(defense.named_parameters()), averaged)
    assert not torch.equal(averaged["net.4.weight"], net()[4].weight)


@pytest.mark.parametrize("method", ["AT", "AWP", "FreeAT"])
def test_statistics_are_gathered_at_the_averaged_weights(method: str) -> None:
    """They are the mean of the batches' means, since at radius 0 the examples are the clean images."""
    averaging = StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1, annealing_epochs=1)
    defense = METHODS[method](net(), attack=PGD(Threat(eps=0.0), steps=1))
    quiet_trainer(max_epochs=2, num_sanity_val_steps=0, callbacks=[averaging]).fit(defense, loader(8))
    with torch.no_grad():
        means = [defense.net[0](x).mean((0, 2, 3)) for x, _ in loader(8)]
    torch.testing.assert_close(defense.net[1].running_mean, torch.stack(means).mean(0))
