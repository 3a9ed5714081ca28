"""When a training counts as overfitted to one step, and what is kept of it."""

import functools
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_robust.attacks import NFGSM, PGD
from lightning_robust.callbacks import AdversarialInputs, AttackStrength, AveragedWeights, CatastrophicOverfitting
from lightning_robust.data import BatchMixing
from lightning_robust.defenses import AT
from lightning_robust.schedules import Linear
from lightning_robust.threat import Threat
from tests.defenses.test_golden_modern import MODERN
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, plain_net
from tests.helpers.foreign import ForeignModule, images


class Told(CatastrophicOverfitting):
    """Measures what it is told."""

    def __init__(self, accuracies: list[float], **settings: Any) -> None:
        super().__init__(**settings)
        self.told = accuracies

    def measure(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> dict[str, float]:
        return {"fgsm": 0.9, "pgd": self.told[trainer.current_epoch]}


class Scripted(AT):
    """Has, from each epoch on, the parameters that a script says; trains nothing."""

    def __init__(self, nets: Tensor) -> None:
        super().__init__(nn.Linear(1, 1), optimizer=lambda params: torch.optim.SGD(params, lr=0.0))
        self.net.vector = nn.Parameter(nets[0].clone())
        self.nets = nets

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad():
            self.net.vector.copy_(self.nets[self.current_epoch])
        return self.net.vector.sum()


@pytest.mark.parametrize("name", [n for n in MODERN if n.startswith("fast_at") and "robust_acc" in MODERN[n]])
def test_the_rule_is_the_authors(name: str) -> None:
    record = MODERN[name]
    saved = {key: value for key, value in record["saved"].items() if value.is_floating_point()}
    saved = {key: value for key, value in saved.items() if "running" not in key}
    theirs = torch.cat([value.flatten() for value in saved.values()])
    module, callback = Scripted(record["nets"]), Told(record["robust_acc"])
    trainer = quiet_trainer(max_epochs=record["epochs_asked"], limit_val_batches=0, callbacks=[callback])
    with pytest.warns(UserWarning, match="Catastrophic overfitting in epoch .* stops with the weights of the epoch"):
        trainer.fit(module, Few())
    assert trainer.current_epoch == record["epochs_run"]
    assert torch.equal(module.net.vector, theirs)
    assert torch.equal(theirs, record["nets"][record["kept_after_epoch"] - 1])


class Validated(Scripted):
    """Keeps what it is validated with."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.seen = [*getattr(self, "seen", []), float(self.net.vector[0])]


def validated(accuracies: list[float]) -> list[float]:
    module = Validated(torch.arange(4.0)[:, None].repeat(1, 3))
    settings: dict[str, Any] = {"num_sanity_val_steps": 0, "limit_val_batches": 1}
    quiet_trainer(max_epochs=4, callbacks=[Told(accuracies)], **settings).fit(module, Few())
    return module.seen


def test_a_slow_fall_is_none() -> None:
    assert validated([0.6, 0.45, 0.3, 0.15]) == [0, 1, 2, 3]


def test_what_is_validated_last_are_the_weights_kept() -> None:
    with pytest.warns(UserWarning, match=r"in epoch 2: .* fell from 60.0% to 30.0%, .* it is 90"):
        assert validated([0.2, 0.6, 0.3, 0.6]) == [0, 1, 1]


def test_without_stopping_it_warns_each_time_and_keeps_nothing() -> None:
    module, callback = Scripted(torch.arange(3.0)[:, None]), Told([0.9, 0.5, 0.1], stop=False)
    with pytest.warns(UserWarning, match="Catastrophic overfitting") as warned:
        quiet_trainer(max_epochs=3, limit_val_batches=0, callbacks=[callback]).fit(module, Few())
    assert sum("More noise helps" in str(w.message) for w in warned) == 2
    assert callback.state_dict() == {"accuracy": 0.1, "weights": None}
    assert module.net.vector == 2


def test_a_resumed_run_decides_as_it_would_have(tmp_path: Path) -> None:
    nets, accuracies = torch.arange(4.0)[:, None], [0.5, 0.8, 0.2, 0.2]
    before = quiet_trainer(max_epochs=2, limit_val_batches=0, callbacks=[Told(accuracies)])
    before.fit(Scripted(nets), Few())
    before.save_checkpoint(tmp_path / "half.ckpt")
    module = Scripted(nets)
    after = quiet_trainer(max_epochs=4, limit_val_batches=0, callbacks=[Told(accuracies)])
    with pytest.warns(UserWarning, match="fell from 80.0% to 20.0%"):
        after.fit(module, Few(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert after.current_epoch == 3
    assert module.net.vector == 1


def test_a_callback_that_is_used_again_starts_anew() -> None:
    told = Told([0.9, 0.9])
    for accuracies in ([0.9, 0.9], [0.1, 0.1]):
        told.told = accuracies
        module = Scripted(torch.arange(2.0)[:, None] + accuracies[0])
        quiet_trainer(max_epochs=2, limit_val_batches=0, callbacks=[told]).fit(module, Few())
        assert module.net.vector == 1 + accuracies[0]


def test_averages_that_would_keep_the_epoch_are_refused() -> None:
    def fit(**settings: Any) -> None:
        average = AveragedWeights(decay=0.5, evaluate=settings.pop("evaluate", "averaged"))
        callbacks = [Told([0.9, 0.9], **settings), average]
        trainer = quiet_trainer(max_epochs=2, limit_val_batches=0, callbacks=callbacks)
        trainer.fit(Scripted(torch.arange(2.0)[:, None]), Few())

    with pytest.raises(ValueError, match="the averaged ones, which are evaluated, would keep the share"):
        fit()
    fit(stop=False)
    fit(evaluate="raw")


def test_mixed_images_are_refused() -> None:
    """By the share of each image, the accuracy of one net goes from nothing to nearly all."""

    def fit(mixing: BatchMixing) -> None:
        trainer = quiet_trainer(max_epochs=1, limit_val_batches=0, callbacks=[Seen()])
        trainer.fit(AT(plain_net(), attack=PGD(Threat(eps=0.1), steps=1)), Few(mixing=mixing))

    for mixing in (BatchMixing(0.8, 0), BatchMixing(0, 1.0, prob=0.5)):
        with pytest.raises(ValueError, match="which on mixed images depend on how they were mixed"):
            fit(mixing)
    fit(BatchMixing(0, 0, label_smoothing=0.1))


class Seen(CatastrophicOverfitting):
    """Keeps what it measured, and on what."""

    def measure(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> dict[str, float]:
        found = super().measure(trainer, module, batch, batch_idx)
        self.seen = (batch, found, [p.detach().clone() for p in module.parameters()])
        return found


def test_what_is_measured_is_the_accuracy_on_the_last_full_batch() -> None:
    seen = Seen(PGD(steps=3))
    defense = AT(plain_net(), attack=PGD(Threat(eps=0.3), steps=1))
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0, callbacks=[seen])
    trainer.fit(defense, DataLoader(images(22), batch_size=8))
    batch, found, _ = seen.seen
    assert len(batch.x) == 8
    right = {
        "fgsm": PGD(Threat(eps=0.3), steps=1, start="none", step_size=0.3),
        "pgd": PGD(Threat(eps=0.3), steps=200, step_size=0.01),
    }
    ours = {}
    for name, attack in right.items():
        ours[name] = (defense(attack(defense, batch.x, batch.y)).argmax(1) == batch.y).float().mean()
    assert found["fgsm"] == ours["fgsm"]
    assert abs(found["pgd"] - ours["pgd"]) <= 1 / 8  # three steps nearly suffice for a net this smooth
    assert float(trainer.callback_metrics["train/pgd_acc"]) == pytest.approx(found["pgd"])


def test_it_is_measured_at_the_whole_radius_while_the_training_attacks_grows() -> None:
    found = []
    for callbacks in ([], [AttackStrength(eps=Linear(0.0, 0.3, 4))]):
        sgd = functools.partial(torch.optim.SGD, lr=0.0)
        defense = AT(plain_net(), attack=PGD(Threat(eps=0.3), steps=1), optimizer=sgd)
        seen = Seen(PGD(steps=3))
        quiet_trainer(max_epochs=1, limit_val_batches=0, callbacks=[*callbacks, seen]).fit(defense, Few(n=16, seed=0))
        found.append(seen.seen[1])
    assert found[0] == found[1]
    assert found[0]["pgd"] < 1


def test_the_net_is_left_as_it_was() -> None:
    def fit(*callbacks: Any) -> AT:
        net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
        torch.manual_seed(0)
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.3)
        defense = AT(net, attack=PGD(Threat(eps=0.1), steps=1))
        quiet_trainer(max_epochs=2, limit_val_batches=0, callbacks=list(callbacks)).fit(defense, Few())
        return defense

    watched, alone = (fit(*callbacks).state_dict() for callbacks in ([CatastrophicOverfitting(drop=1.0)], []))
    assert all(torch.equal(watched[key], alone[key]) for key in alone)


def test_any_module_with_adversarial_inputs_is_watched() -> None:
    seen = Seen()
    data = DataLoader(images(12), batch_size=4)
    callbacks = [AdversarialInputs(PGD(Threat(eps=0.1), steps=1)), seen]
    quiet_trainer(max_epochs=1, limit_val_batches=0, callbacks=callbacks).fit(ForeignModule(), data)
    assert set(seen.seen[1]) == {"fgsm", "pgd"}
    with pytest.raises(TypeError, match="but ForeignModule has no attack: give the trainer AdversarialInputs"):
        quiet_trainer(max_epochs=1, limit_val_batches=0, callbacks=[Seen()]).fit(ForeignModule(), data)


@pytest.mark.slow
def test_all_ranks_decide_by_the_samples_of_all() -> None:
    def fit(rank: int) -> Any:
        seen = Seen()
        defense = AT(plain_net(), attack=PGD(Threat(eps=0.1), steps=1))
        ddp_trainer(max_epochs=1, limit_val_batches=0, callbacks=[seen]).fit(defense, Few(n=16))
        batch, found, _ = seen.seen
        x_adv = PGD(Threat(eps=0.1), steps=1, start="none")(defense, batch.x, batch.y)
        return found, (defense(x_adv).argmax(1) == batch.y).float().mean().item()

    (found, one), (again, other) = run_ddp(fit)
    assert found == again
    assert found["fgsm"] == pytest.approx((one + other) / 2)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: CatastrophicOverfitting(drop=0), r"drop must lie in \(0, 1\], got 0"),
        (lambda: CatastrophicOverfitting(PGD(targeted=True)), "is targeted"),
        (lambda: CatastrophicOverfitting(NFGSM()), "is for training alone"),
    ],
)
def test_what_it_cannot_be_is_told(make: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()
