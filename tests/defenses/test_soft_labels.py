"""Soft labels [b k] in training: one-hot ones change no bit of a recipe's steps, others follow torch's losses.

Every second recipe is tested; `EXHAUSTIVE=1 pytest tests/defenses/test_soft_labels.py` tests all.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.common.combinations import prepared
from lightning_robust.attacks import APGD, PGD
from lightning_robust.callbacks import AdversarialInputs, EffectiveMargins, RobustEvaluation
from lightning_robust.defenses import AT, MART, TRADES, Defense
from lightning_robust.losses import kl_divergence
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Views
from lightning_robust.utils.batch_reader import BatchReader, as_batch
from tests.defenses.test_every_recipe import NET, RECIPES, TEACHER
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import plain_net
from tests.helpers.spread import spread

X = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 2, 1, 0])
SOFT = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)).softmax(1)
QUICK = {"trades", "mart", "iaat"}


def one_hot(batch: Any) -> Batch:
    read = as_batch(batch)
    return read._replace(y=F.one_hot(read.y, 10).to(read.x))


def fitted(recipe: Path, soft: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    defense, data, _ = prepared(recipe.stem, None, NET, TEACHER)
    if soft:
        defense.reader = BatchReader(read=one_hot)
    trainer = quiet_trainer(max_epochs=2, limit_train_batches=2, limit_val_batches=1)
    trainer.fit(defense, data)
    return defense.net.state_dict(), dict(trainer.callback_metrics)


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(r, id=r.stem, marks=() if r.stem in QUICK else pytest.mark.slow)
        for r in RECIPES
        if (r,) in spread(RECIPES, one_in=2) or r.stem in QUICK
    ],
)
def test_one_hot_labels_change_no_bit(recipe: Path) -> None:
    weights, logged = fitted(recipe, soft=False)
    soft_weights, soft_logged = fitted(recipe, soft=True)
    assert all(torch.equal(weights[name], soft_weights[name]) for name in weights)
    assert logged.keys() == soft_logged.keys()
    assert all(torch.equal(logged[name], soft_logged[name]) for name in logged)


def test_losses_of_soft_labels_by_hand() -> None:
    net, batch, views = plain_net(), Batch(X, SOFT), Views((X + 0.1).clamp(0, 1))
    z, z_adv = net(X), net(views.adv)
    natural, robust = (F.cross_entropy(logits, SOFT, reduction="none") for logits in (z, z_adv))
    torch.testing.assert_close(AT(net).loss(batch, views).total, robust)
    trades = natural + 6 * kl_divergence(z_adv, z)
    torch.testing.assert_close(TRADES(net).loss(batch, views).total, trades)
    p, p_adv = z.softmax(1), z_adv.softmax(1)
    label = SOFT.argmax(1)
    likeliest_wrong = p_adv.scatter(1, label[:, None], -1).amax(1)
    boosted = robust - torch.log(1.0001 - likeliest_wrong + 1e-12)
    mart = boosted + 5 * kl_divergence(z_adv, z) * (1 - p.gather(1, label[:, None])[:, 0])
    torch.testing.assert_close(MART(net).loss(batch, views).total, mart, rtol=1e-5, atol=1e-5)


class Watched(AT):
    """AT that keeps the labels that its attack and its loss saw."""

    def generate(self, batch: Batch) -> Views:
        self.attacked = batch.y
        return super().generate(batch)

    def loss(self, batch: Batch, views: Views) -> Any:
        self.learnt = batch.y
        return super().loss(batch, views)


@pytest.mark.parametrize("y", [Y, SOFT], ids=["hard", "soft"])
def test_label_smoothing_is_in_the_loss_and_not_in_the_attack(y: Tensor) -> None:
    defense = Watched(plain_net(), attack=PGD(Threat(eps=0.1), steps=1), label_smoothing=0.2)
    logits: list[Tensor] = []
    defense.net.register_forward_hook(lambda *args: logits.append(args[2].detach()))
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(defense, DataLoader(TensorDataset(X, y), 6))
    assert torch.equal(defense.attacked, y)
    assert torch.equal(defense.learnt.argmax(1), y if y is Y else y.argmax(1))
    expected = F.cross_entropy(logits[-1], y, label_smoothing=0.2)
    torch.testing.assert_close(trainer.callback_metrics["train/loss"], expected)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_label_smoothing_out_of_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\)"):
        AT(plain_net(), label_smoothing=smoothing)


def test_evaluation_takes_the_most_probable_class() -> None:
    def run(y: Tensor) -> dict[str, float]:
        callbacks = [RobustEvaluation({"apgd": APGD(Threat(eps=0.1), steps=2)}), EffectiveMargins()]
        trainer = quiet_trainer(callbacks=callbacks)
        trainer.test(AT(plain_net()), DataLoader(TensorDataset(X, y), 3), verbose=False)
        return {name: float(value) for name, value in trainer.callback_metrics.items() if name != "test/loss"}

    hard, soft = run(SOFT.argmax(1)), run(SOFT)
    assert hard == soft
    assert {"test/worst_acc", "test/clean_acc", "test/effective_margin"} <= hard.keys()


class Foreign(Defense):
    """A module whose own training step takes soft labels as they are."""

    def loss(self, batch: Batch, views: Views) -> Any:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen = batch
        return F.cross_entropy(self.net(batch[0]), batch[1])


def test_adversarial_inputs_are_crafted_from_soft_labels() -> None:
    attack = PGD(Threat(eps=0.1), steps=1, start="none")
    module = Foreign(plain_net(), optimizer=lambda params: torch.optim.SGD(params, lr=0.0))
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0, callbacks=[AdversarialInputs(attack)])
    trainer.fit(module, DataLoader(TensorDataset(X, SOFT), 6))
    torch.testing.assert_close(module.seen[0], attack(module.net, X, SOFT))
    assert torch.equal(module.seen[1], SOFT)
