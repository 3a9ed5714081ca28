"""CFA: radii and weights of classes by hand, over ranks and in checkpoints. No record of the authors' code exists."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import AveragedWeights
from lightning_robust.defenses import CFA, CFAAT, TRADES
from lightning_robust.losses import kl_divergence
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Views
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, Saves, norm_net, plain_net

EPS = 0.1
T = torch.tensor([0.1, 0.6, 1.0])
ATTACK = PGD(Threat(eps=EPS), steps=3, step_size=0.09, start="normal")


def made(method: Any, net: torch.nn.Module | None = None, **settings: Any) -> Any:
    given: dict[str, Any] = {"attack": ATTACK, "begin": 1, **settings}
    return method(net or plain_net(), optimizer=lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9), **given)


def remembering(method: Any, epoch: int, **settings: Any) -> tuple[Any, Batch]:
    defense = made(method, **settings)
    defense.means.load_state_dict({"values": T[:, None], "sums": torch.zeros(3, 2), "epoch": epoch})
    type(defense).current_epoch = property(lambda self: epoch)  # type: ignore[assignment]
    x = 0.2 + 0.6 * torch.rand(9, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return defense, Batch(x, torch.arange(9) % 3)


@pytest.fixture(autouse=True)
def _epochs_of_their_own() -> Any:
    yield
    for method in (CFA, CFAAT):
        if "current_epoch" in vars(method):
            del method.current_epoch


@pytest.mark.parametrize(("method", "lambda_1"), [(CFA, 0.3), (CFAAT, 0.5)])
def test_each_class_has_the_radius_of_its_robustness(method: Any, lambda_1: float) -> None:
    for epoch, scale in ((0, torch.ones(3)), (1, lambda_1 + T)):
        defense, batch = remembering(method, epoch)
        size = (defense.generate(batch).adv - batch.x).flatten(1).abs().amax(1)
        torch.testing.assert_close(size, (EPS * scale)[batch.y], rtol=0, atol=1e-6)


def test_the_loss_weighs_the_terms_by_class() -> None:
    for epoch, beta in ((0, torch.full((3,), 6.0)), (1, (0.5 + T) * 6)):
        defense, batch = remembering(CFA, epoch)
        views = defense.generate(batch)
        losses = defense.loss(batch, views)
        z, z_adv = defense.net(batch.x), defense.net(views.adv)
        b = beta[batch.y]
        expected = (F.cross_entropy(z, batch.y, reduction="none") + b * kl_divergence(z_adv, z)) / (1 + b)
        torch.testing.assert_close(losses.total, expected)


def test_with_classes_alike_it_is_trades_over_one_plus_beta() -> None:
    defense, batch = remembering(CFA, 0)
    views = Views(batch.x + 0.05, more={"robustness": torch.ones(9)})
    trades = TRADES(plain_net(), attack=ATTACK).loss(batch, views).total
    torch.testing.assert_close(defense.loss(batch, views).total, trades / 7)


def test_soft_labels_mix_the_radii_of_their_classes() -> None:
    defense, batch = remembering(CFAAT, 1)
    soft = torch.tensor([[0.5, 0.25, 0.25]]).expand(9, 3)
    robustness = defense.generate(batch._replace(y=soft)).more["robustness"]
    torch.testing.assert_close(robustness, torch.full((9,), float(0.5 * T[0] + 0.25 * T[1] + 0.25 * T[2])))


class Right(CFAAT):
    """Counts by itself."""

    def loss(self, batch: Batch, views: Views) -> Any:
        losses = super().loss(batch, views)
        for label, right in zip(batch.y.tolist(), (losses.logits_adv.argmax(1) == batch.y).tolist(), strict=True):
            self.counts = getattr(self, "counts", torch.zeros(3, 2))
            self.counts[label] += torch.tensor([right, 1.0])
        return losses


def test_what_is_remembered_is_each_classs_accuracy_under_attack() -> None:
    defense = made(Right)
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(defense, Few(n=20, seed=3))
    defense.means.enter(1, torch.zeros(1, 3))
    found = defense.means(torch.eye(3))[:, 0]
    expected = torch.where(defense.counts[:, 1] > 0, defense.counts[:, 0] / defense.counts[:, 1].clamp_min(1), 1.0)
    torch.testing.assert_close(found, expected)
    assert defense.counts.sum() > 20


def state(defense: Any) -> list[Tensor]:
    return [defense.means.values, defense.means.gathered(), *(v.detach() for v in defense.net.state_dict().values())]


@pytest.mark.parametrize("method", [CFA, CFAAT])
def test_a_run_that_is_stopped_within_an_epoch_goes_on_to_the_same_end(method: Any, tmp_path: Path) -> None:
    whole = made(method, norm_net())
    callbacks: list[Any] = [AveragedWeights(decay=0.5), Saves(10, tmp_path / "first.ckpt")]
    quiet_trainer(max_epochs=4, callbacks=callbacks).fit(whole, Few(n=16, seed=3))
    resumed = made(method, norm_net(7))
    trainer = quiet_trainer(max_epochs=4, callbacks=callbacks[:1])
    trainer.fit(resumed, Few(n=16, seed=3), ckpt_path=str(tmp_path / "first.ckpt"), weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(state(resumed), state(whole), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("method", [CFA, CFAAT])
def test_two_ranks_equal_one_process(method: Any) -> None:
    def on(ranks: int) -> list[Tensor]:
        defense = made(method, plain_net(dtype=torch.float64))
        own: dict[str, Any] = {"max_epochs": 3, "precision": "64-true"}
        trainer = ddp_trainer(ranks, **own) if ranks > 1 else quiet_trainer(**own)
        trainer.fit(defense, Few(n=16, batch_size=4 // ranks, seed=3))
        return state(defense)

    alone = on(1)
    for own in run_ddp(lambda rank: on(2)):
        torch.testing.assert_close(own, alone, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("method", "settings", "told"),
    [
        (CFA, {"lambda_1": -1.0}, "CFA needs lambda_1 >= 0 and begin >= 1"),
        (CFAAT, {"begin": 0}, "CFAAT needs lambda_1 >= 0 and begin >= 1"),
        (CFA, {"lambda_2": -1.0}, "CFA needs lambda_2 >= 0"),
        (CFA, {"beta": -1.0}, "TRADES needs beta >= 0"),
    ],
)
def test_settings_out_of_range_are_refused(method: Any, settings: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        made(method, **settings)
