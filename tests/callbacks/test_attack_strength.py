"""The attack of each epoch, and that nothing of it stays."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch import Tensor

from lightning_robust.attacks import PGD
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
