"""The attack of each epoch, and that nothing of it stays."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_robust.attacks import NFGSM, PGD, TrainingAPGD
from lightning_robust.callbacks import AttackStrength
from lightning_robust.defenses import AT
from lightning_robust.schedules import Linear, PiecewiseConstant
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Losses, Views
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, plain_net
from tests.helpers.foreign import ForeignModule


class Watched(AT):
    """Keeps, of each step, the attack's budget and how far the images moved."""

    def loss(self, batch: Batch, views: Views) -> Losses:
        threat = self.attack.threat
        moved = float(threat.distance(views.adv, batch.x).max())
        seen = (self.current_epoch, threat.eps, self.attack.step_size, self.attack.steps, moved)
        self.seen = [*getattr(self, "seen", []), seen]
        return super().loss(batch, views)


def run(epochs: int, **settings: Any) -> Watched:
    defense = Watched(plain_net(), attack=PGD(Threat(eps=0.2), steps=4, step_size=0.1))
    strength = AttackStrength(Linear(0.0, 0.2, 2), PiecewiseConstant([1, 4], [1]))
    quiet_trainer(max_epochs=epochs, callbacks=[strength], **settings).fit(defense, Few(n=16, batch_size=8))
    return defense


def test_each_epoch_has_its_own_attack_and_the_first_one_comes_back() -> None:
    defense = run(3)
    budgets = {epoch: seen for epoch, *seen in defense.seen}
    assert budgets[0][:3] == [0.0, 0.1, 1]
    assert budgets[1][:3] == pytest.approx([0.1, 0.05, 4])
    assert budgets[2][:3] == pytest.approx([0.2, 0.1, 4])
    for eps, _, _, moved in budgets.values():
        assert moved == pytest.approx(eps, abs=1e-6)
    assert (defense.attack.threat.eps, defense.attack.step_size, defense.attack.steps) == (0.2, 0.1, 4)


def test_it_is_logged_and_resumed(tmp_path: Path) -> None:
    whole = run(3)
    first = Watched(plain_net(), attack=PGD(Threat(eps=0.2), steps=4, step_size=0.1))

    def trainer(epochs: int) -> Any:
        strength = AttackStrength(Linear(0.0, 0.2, 2), PiecewiseConstant([1, 4], [1]))
        return quiet_trainer(max_epochs=epochs, callbacks=[strength])

    before = trainer(2)
    before.fit(first, Few(n=16, batch_size=8))
    assert before.callback_metrics["train/attack_eps"] == pytest.approx(0.1)
    assert before.callback_metrics["train/attack_steps"] == 4
    before.save_checkpoint(tmp_path / "half.ckpt")
    second = Watched(plain_net(), attack=PGD(Threat(eps=0.2), steps=4, step_size=0.1))
    trainer(3).fit(second, Few(n=16, batch_size=8), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert first.seen + second.seen == whole.seen
    for mine, theirs in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_step_size_has_a_schedule_of_its_own() -> None:
    defense = Watched(plain_net(), attack=PGD(Threat(eps=0.2), steps=1, step_size=0.1))
    strength = AttackStrength(eps=Linear(0.0, 0.2, 2), step_size=Linear(0.0, "30/255", 3))
    trainer = quiet_trainer(max_epochs=4, callbacks=[strength])
    trainer.fit(defense, Few(n=16, batch_size=8))
    steps = {epoch: step for epoch, _, step, _, _ in defense.seen}
    assert [255 * step for step in steps.values()] == pytest.approx([0, 10, 20, 30])
    assert {eps for epoch, eps, *_ in defense.seen if epoch == 1} == {0.1}
    assert trainer.callback_metrics["train/attack_step_size"] == pytest.approx(30 / 255)
    assert defense.attack.step_size == 0.1


def test_schedules_by_step_count_fractions_of_epochs_and_are_resumed(tmp_path: Path) -> None:
    def fit(epochs: int, path: Path | None = None) -> tuple[list[float], Any]:
        defense = Watched(plain_net(), attack=PGD(Threat(eps=0.2), steps=1))
        strength = AttackStrength(eps=Linear(0.0, 0.2, 2), interval="step")
        trainer = quiet_trainer(max_epochs=epochs, callbacks=[strength])
        trainer.fit(defense, Few(n=16, batch_size=4), ckpt_path=path, weights_only=None if path is None else True)
        return [eps for _, eps, *_ in defense.seen], trainer

    expected = [0.025 * number for number in range(8)] + [0.2] * 4
    whole, _ = fit(3)
    assert whole == pytest.approx(expected)
    before, trainer = fit(1)
    trainer.save_checkpoint(tmp_path / "third.ckpt")
    assert before + fit(3, tmp_path / "third.ckpt")[0] == whole


@pytest.mark.parametrize("eps", [0.1, 0.2])
def test_relative_schedules_are_in_units_of_the_radius_wherever_that_stands(eps: float) -> None:
    defense = Watched(plain_net(), attack=PGD(Threat(eps=eps), steps=1, step_size=0.1))
    strength = AttackStrength(eps=Linear(0.5, 1.0, 2), step_size=Linear(0.0, 1.0, 2), relative=True)
    quiet_trainer(max_epochs=3, callbacks=[strength]).fit(defense, Few(n=16, batch_size=16))
    assert [radius for _, radius, *_ in defense.seen] == pytest.approx([0.5 * eps, 0.75 * eps, eps])
    assert [step for _, _, step, *_ in defense.seen] == pytest.approx([0.0, 0.5 * eps, eps])
    assert (defense.attack.threat.eps, defense.attack.step_size) == (eps, 0.1)


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_run_resumed_within_an_epoch_goes_on_at_its_batch(interval: Any, tmp_path: Path) -> None:
    def fit(path: Path | None = None) -> Watched:
        defense = Watched(plain_net(), attack=NFGSM(Threat(eps=0.2), step_size=0.1))
        strength = AttackStrength(eps=Linear(0.0, 0.2, 2), interval=interval)
        save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = quiet_trainer(max_epochs=2, callbacks=[strength, save], enable_checkpointing=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*exists and is not empty")
            trainer.fit(defense, Few(n=16, batch_size=4), ckpt_path=path, weights_only=None if path is None else True)
        return defense

    whole = fit()
    rest = fit(tmp_path / "step=6.ckpt")
    assert rest.seen == whole.seen[6:]
    assert all(torch.equal(*both) for both in zip(rest.parameters(), whole.parameters(), strict=True))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: AttackStrength(interval="batch"), "interval must be epoch or step, got 'batch'"),  # type: ignore[arg-type]
        (lambda: AttackStrength(step_size=Linear(0, 1, 1)), "a step size of PGD, but the attack is TrainingAPGD"),
    ],
)
def test_what_cannot_be_scheduled_is_told(make: Any, told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        quiet_trainer(max_epochs=1, callbacks=[make()]).fit(AT(plain_net(), attack=TrainingAPGD()), Few())


def test_the_attack_comes_back_after_an_exception() -> None:
    class Failing(Watched):
        def loss(self, batch: Batch, views: Views) -> Losses:
            raise RuntimeError("stop")

    defense = Failing(plain_net(), attack=PGD(Threat(eps=0.2)))
    with pytest.raises(RuntimeError, match="stop"):
        quiet_trainer(max_epochs=1, callbacks=[AttackStrength(Linear(0.0, 0.2, 2))]).fit(
            defense, Few(n=16, batch_size=8)
        )
    assert defense.attack.threat.eps == 0.2


def test_a_module_without_an_attack_is_refused() -> None:
    module: LightningModule = ForeignModule()
    with pytest.raises(TypeError, match="but ForeignModule has none"):
        quiet_trainer(max_epochs=1, callbacks=[AttackStrength(Linear(0.0, 0.2, 2))]).fit(
            module, Few(n=16, batch_size=8)
        )


def test_images_are_resized_by_epoch_in_training_alone() -> None:
    sizes: list[tuple[str, int, int]] = []

    class Sizes(AT):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            assert x.min() >= 0
            assert x.max() <= 1
            sizes.append(("train", self.current_epoch, x.shape[-1]))
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            sizes.append(("val", self.current_epoch, batch[0].shape[-1]))

    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.LazyLinear(3))
    data = Few(n=16, batch_size=8, resolution=PiecewiseConstant([2, 3.6], [1]))
    data.setup("fit")
    x = data.train_set[0][0]
    net(x[None])
    quiet_trainer(max_epochs=2, num_sanity_val_steps=0).fit(Sizes(net, attack=PGD(steps=1)), data)
    assert set(sizes) == {("train", 0, 2), ("val", 0, x.shape[-1]), ("train", 1, 4), ("val", 1, x.shape[-1])}
