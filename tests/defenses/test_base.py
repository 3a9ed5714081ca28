"""The route of a training step, whatever the method: batches, checks, parts, schedules, checkpoints."""

from collections.abc import Callable, Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.defenses import AT, IAAT, ST, TRADES, Defense, Standard
from lightning_robust.parts import AdversarialWeightPerturbation as AWP
from lightning_robust.parts.regularizers import Regularizer
from lightning_robust.parts.reweighting import Reweighting
from lightning_robust.parts.weight_perturbation import WeightPerturbation
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Losses, Views
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, norm_net, plain_net
from tests.helpers.foreign import images, loader

RATE = 0.1
FIXED = PGD(Threat(eps=0.1), steps=3, start="none")  # nothing random


def sgd(params: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=RATE)


def still(params: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.0)


def weights(module: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in module.state_dict().values()]


def fitted(defense: Defense, data: Any, val: Any = None, epochs: int = 1, **settings: Any) -> Any:
    trainer = quiet_trainer(max_epochs=epochs, num_sanity_val_steps=0, **settings)
    trainer.fit(defense, data) if val is None else trainer.fit(defense, data, val)
    return trainer


def one_batch(x: Tensor, y: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(x, y), len(x))


# ------------------------------------------------------------------------------------------------------------- batches


def collated(make: Callable[[Tensor, Tensor, Tensor], Any]) -> DataLoader[Any]:
    x, y = images(8).tensors
    return DataLoader([make(x[i : i + 4], y[i : i + 4], torch.arange(i, i + 4)) for i in (0, 4)], batch_size=None)


@pytest.mark.parametrize(
    "make",
    [lambda x, y, i: [x, y], lambda x, y, i: (x, y, i), lambda x, y, i: Batch(x, y), lambda x, y, i: Batch(x, y, i)],
    ids=["x y", "x y index", "Batch", "Batch with index"],
)
def test_each_form_of_a_batch_trains_the_same(make: Any) -> None:
    got, reference = AT(plain_net(), attack=FIXED, optimizer=sgd), plain_net()
    fitted(got, collated(make))
    for x, y in loader(8):
        x_adv = FIXED(reference, x, y)
        grads = torch.autograd.grad(cross_entropy(reference(x_adv), y), list(reference.parameters()))
        with torch.no_grad():
            for p, g in zip(reference.parameters(), grads, strict=True):
                p -= RATE * g
    torch.testing.assert_close(weights(got.net), weights(reference))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x, y, i: (x,), "found in a list of Tensor: say"),
        (lambda x, y, i: (x, ["cat", "dog"]), "found in a list of Tensor, list: say"),
        (lambda x, y, i: ((x, y), (x, y)), "found in a list of list, list: say"),
        (lambda x, y, i: {"x": x, "z": y}, r"found in a dict with the keys \['x', 'z'\]: say"),
        (lambda x, y, i: x, "found in a Tensor: say"),
    ],
)
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_other_batches_are_refused(make: Any, message: str, stage: str) -> None:
    with pytest.raises(TypeError, match=f"{message} with image_key and label_key where they stand"):
        getattr(quiet_trainer(max_epochs=1), stage)(Standard(plain_net()), collated(make))


# --------------------------------------------------------------------------------------------------------- bad input


def bad(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> DataLoader[Any]:
    return one_batch(*change(*images(4).tensors))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda x, y: (2 * x.round() - 0.5, y),
            ValueError,
            r"in \[0, 1\] but range over \[-0.5, 1.5\]: leave normalis",
        ),
        (lambda x, y: ((255 * x).byte(), y), TypeError, r"floating-point in \[0, 1\], got torch.uint8: convert them"),
        (lambda x, y: (x.masked_fill(x == x.max(), torch.nan), y), ValueError, "Images contain NaN"),
        (lambda x, y: (x, y + 2), ValueError, r"below the net's 3 outputs, but range over \[3, 4\]"),
        (lambda x, y: (x, y - 3), ValueError, r"Labels must be at least 0, but range over \[-2, -1\]"),
        (lambda x, y: (x, y.float()), TypeError, r"integer type or .* got torch.float32 of shape \(4,\)"),
        (
            lambda x, y: (x, nn.functional.one_hot(y)),
            TypeError,
            r"or .* got torch.int64 of shape \(4, 3\)",
        ),
        (lambda x, y: (x, 2.0 * nn.functional.one_hot(y)), ValueError, "must be probabilities, .* a row sums to 2"),
        (lambda x, y: (x, nn.functional.one_hot(y, 5).float()), ValueError, "have 5 columns, but the net has 3"),
    ],
    ids=["range", "bytes", "nan", "too large", "negative", "float labels", "one-hot", "soft sum", "soft width"],
)
@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_bad_data_is_refused_in_every_stage(change: Any, error: Any, message: str, stage: str) -> None:
    with pytest.raises(error, match=message):
        getattr(quiet_trainer(max_epochs=1), stage)(AT(plain_net()), bad(change))


def test_bad_data_is_refused_on_any_batch_not_only_the_first() -> None:
    x, y = images(8).tensors
    x[7] += 1
    with pytest.raises(ValueError, match="but range over"):
        fitted(Standard(plain_net(), optimizer=sgd), DataLoader(TensorDataset(x, y), 4))


def test_the_threats_own_box_is_the_one_that_counts() -> None:
    x, y = images(4).tensors
    wide = PGD(Threat(eps=0.1, lower=-1.0), steps=1)
    fitted(AT(plain_net(), attack=wide), one_batch(2 * x - 1, y))
    with pytest.raises(ValueError, match=r"in \[-1, 1\]"):
        fitted(AT(plain_net(), attack=wide), one_batch(3 * x - 1, y))


def test_a_net_of_another_width_than_the_data_is_refused() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    with pytest.raises(ValueError, match="The net gives 5 logits but the data has 3 classes"):
        fitted(Standard(net), Few())


def test_a_net_that_gives_no_logits_is_refused() -> None:
    with pytest.raises(ValueError, match=r"logits \[b k\] for 4 images, got shape \(4, 4, 2, 2\)"):
        fitted(Standard(plain_net()[:1]), loader(4))


def test_a_net_without_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="Flatten has no parameters"):
        Standard(nn.Flatten())


def test_an_attack_that_leads_towards_the_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="easier than the clean ones: set random_targets"):
        AT(plain_net(), attack=PGD(targeted=True))
    AT(plain_net(), attack=PGD(targeted=True, random_targets=3))


def test_probabilities_are_warned_of() -> None:
    net = nn.Sequential(plain_net(), nn.Softmax(dim=1))
    with pytest.warns(UserWarning, match="look like probabilities"):
        fitted(Standard(net), loader(4))


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_half_precision_images_are_refused(precision: Any) -> None:
    with pytest.raises(ValueError, match=rf"precision '{precision}' stores images in half precision"):
        fitted(Standard(plain_net()), loader(4), precision=precision)


def test_mixed_precision_trains_on_examples_in_full_precision() -> None:
    class Watched(AT):
        def generate(self, batch: Batch) -> Views:
            views = super().generate(batch)
            self.seen = views.adv
            return views

    defense = Watched(plain_net(), attack=FIXED, optimizer=sgd)
    fitted(defense, loader(4), precision="bf16-mixed")
    assert defense.seen.dtype == torch.float32
    x, _ = images(4).tensors
    assert float((defense.seen - x).abs().max()) == pytest.approx(0.1, abs=1e-6)  # bf16 would round it


# -------------------------------------------------------------------------------------------------------------- parts


class Pull(Regularizer):
    """The sum of the last weights, the same for every sample; keeps the weights it saw."""

    name = "pull"

    def __init__(self, strength: float) -> None:
        self.strength, self.seen = strength, []

    def __call__(self, net: Any, batch: Batch, views: Views, epoch: int) -> Tensor:
        self.seen.append((epoch, net[-1].bias.detach().clone()))
        return self.strength * net[-1].bias.sum() * torch.ones(len(batch.x))


class ByLabel(Reweighting):
    def __call__(self, logits_adv: Tensor, y: Tensor, epoch: int) -> Tensor:
        assert logits_adv.shape == (len(y), 3)
        return (y + epoch).float()


class Shift(WeightPerturbation):
    """Moves every weight up by 1; keeps the loss found on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []
        self.restored = 0

    def direction(self, *args: Any) -> tuple[list[Tensor], list[Tensor]]:
        raise NotImplementedError  # __call__ does without

    def __call__(self, net: nn.Module, loss_fn: Callable[[], Tensor], epoch: int) -> Callable[[], None]:
        before = [p.detach().clone() for p in net.parameters()]
        self.losses.append(loss_fn().detach())
        with torch.no_grad():
            for p in net.parameters():
                p += 1

        def restore() -> None:
            self.restored += 1
            with torch.no_grad():
                for p, old in zip(net.parameters(), before, strict=True):
                    p.copy_(old)

        return restore


def test_a_regularizer_adds_to_the_loss_and_to_the_log() -> None:
    pull = Pull(2.0)
    plain, pulled = Standard(plain_net(), optimizer=sgd), Standard(plain_net(), optimizer=sgd, regularizers=[pull])
    fitted(plain, loader(4))
    trainer = fitted(pulled, loader(4))
    expected = weights(plain.net)
    expected[-1] -= RATE * 2.0
    torch.testing.assert_close(weights(pulled.net), expected)
    start, (x, y) = plain_net(), images(4).tensors
    ce, bias = float(cross_entropy(start(x), y).detach()), float(start[-1].bias.detach().sum())
    assert float(trainer.callback_metrics["train/pull"]) == pytest.approx(2 * bias, rel=1e-5)
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(ce + 2 * bias, rel=1e-5)
    assert [epoch for epoch, _ in pull.seen] == [0]


def test_a_reweighting_multiplies_each_samples_loss() -> None:
    net, (x, y) = plain_net(), images(7).tensors
    each = cross_entropy(net(x), y, reduction="none").detach()
    trainer = fitted(
        Standard(net, optimizer=still, reweighting=ByLabel()), DataLoader(TensorDataset(x, y), 4), epochs=2
    )
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(float((each * (y + 1)).mean()), rel=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_gradient_is_taken_at_the_perturbed_weights_and_applied_at_the_old(accumulate: int) -> None:
    shift, pull = Shift(), Pull(0.0)
    defense = AT(plain_net(), attack=FIXED, optimizer=sgd, weight_perturbation=shift, regularizers=[pull])
    fitted(defense, loader(8), accumulate_grad_batches=accumulate)

    reference = plain_net()
    total = [torch.zeros_like(p) for p in reference.parameters()]
    for i, (x, y) in enumerate(loader(8)):
        x_adv = FIXED(reference, x, y)
        torch.testing.assert_close(shift.losses[i], cross_entropy(reference(x_adv), y, reduction="none").detach())
        moved = plain_net()
        with torch.no_grad():
            for p, old in zip(moved.parameters(), reference.parameters(), strict=True):
                p.copy_(old + 1)
        torch.testing.assert_close(pull.seen[i][1], moved[-1].bias.detach())  # regularizers see the moved weights
        grads = torch.autograd.grad(cross_entropy(moved(x_adv), y), list(moved.parameters()))
        total = [t + g / accumulate for t, g in zip(total, grads, strict=True)]
        if (i + 1) % accumulate == 0:
            with torch.no_grad():
                for p, g in zip(reference.parameters(), total, strict=True):
                    p -= RATE * g
            total = [torch.zeros_like(p) for p in reference.parameters()]
    torch.testing.assert_close(weights(defense.net), weights(reference))
    assert shift.restored == 2


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_weights_put_back_after_the_step_differ_by_weight_decay_alone(decay: float) -> None:
    after, before = (
        Standard(
            plain_net(dtype=torch.float64),
            optimizer=lambda p: torch.optim.SGD(p, lr=RATE, weight_decay=decay),
            weight_perturbation=AWP(gamma=0.05, restore=restore),
        )
        for restore in ("after_step", "before_step")
    )
    x, y = images(4).tensors
    for defense in (after, before):
        fitted(defense, one_batch(x.double(), y))
    net = plain_net(dtype=torch.float64)
    moving = [net[0].weight, net[3].weight]
    grads = torch.autograd.grad(cross_entropy(net(x.double()), y), moving)
    moves = [0.05 * w.detach().norm() * g / g.norm() for w, g in zip(moving, grads, strict=True)]
    for i, move in ((0, moves[0]), (3, moves[1])):
        difference = after.net[i].weight.detach() - before.net[i].weight.detach()
        torch.testing.assert_close(difference, -RATE * decay * move, rtol=1e-8, atol=1e-14)


class Raising(Standard):
    """Raises on its fourth evaluation of the loss (at perturbed weights, after the check's two)."""

    where, calls = "loss", 0

    def loss(self, batch: Batch, views: Views) -> Losses:
        losses = super().loss(batch, views)
        self.calls += 1
        if self.calls == 4:
            if self.where == "loss":
                raise RuntimeError("in the loss")
            losses.total.register_hook(self._raise)
        return losses

    def _raise(self, grad: Tensor) -> Tensor:
        raise RuntimeError("in the backward pass")


class RaisingRegularizer(Pull):
    def __call__(self, *args: Any) -> Tensor:
        raise RuntimeError("in the regularizer")


@pytest.mark.parametrize("where", ["loss", "backward pass", "regularizer"])
def test_the_weights_come_back_exactly_if_anything_raises(where: str) -> None:
    penalties = [RaisingRegularizer(1.0)] if where == "regularizer" else []
    defense = Raising(plain_net(), optimizer=sgd, weight_perturbation=Shift(), regularizers=penalties)
    defense.where, defense.calls = where, 0 if where != "regularizer" else 4
    with pytest.raises(RuntimeError, match=f"in the {where}"):
        fitted(defense, loader(4))
    torch.testing.assert_close(weights(defense.net), weights(plain_net()), rtol=0, atol=0)


# ----------------------------------------------------------------------------------------- optimizers and schedules


@pytest.mark.parametrize(("interval", "halvings"), [("epoch", 2), ("step", 6)])
def test_the_schedule_counts_epochs_or_steps(interval: Any, halvings: int) -> None:
    defense = Standard(
        plain_net(),
        optimizer=sgd,
        scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
        scheduler_interval=interval,
    )
    trainer = fitted(defense, loader(12), epochs=2)
    assert isinstance(trainer.optimizers[0], torch.optim.SGD)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(RATE * 0.5**halvings)


def test_a_plateau_schedule_watches_what_it_names() -> None:
    defense = Standard(
        plain_net(),
        optimizer=still,  # a rate of 0 cannot fall, so the schedule's own counter is read
        scheduler=lambda optimizer: ReduceLROnPlateau(optimizer, monitor="val/clean_acc", mode="max", patience=9),
    )
    trainer = fitted(defense, loader(4), loader(7), epochs=3)
    config = trainer.lr_scheduler_configs[0]
    assert config.monitor == "val/clean_acc"
    assert config.scheduler.num_bad_epochs == 2


def test_a_plateau_schedule_watches_the_worst_case_by_default() -> None:
    defense = Standard(plain_net(), scheduler=lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer))
    assert defense.configure_optimizers()["lr_scheduler"]["monitor"] == "val/worst_acc"


def rates(defense: Any, **settings: Any) -> list[float]:
    trainer = quiet_trainer(max_epochs=1, **settings)
    trainer.fit(defense, Few(n=24, batch_size=4))
    return [group["initial_lr"] for group in trainer.optimizers[0].param_groups]


@pytest.mark.parametrize(("reference", "accumulate", "rate"), [(None, 1, 0.01), (16, 1, 0.0025), (2, 3, 0.06)])
def test_the_rate_grows_with_the_samples_of_a_step(reference: int | None, accumulate: int, rate: float) -> None:
    defense = Standard(
        plain_net(),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.01),
        scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1),
        base_batch_size=reference,
    )
    assert rates(defense, accumulate_grad_batches=accumulate) == [pytest.approx(rate)]


def test_the_rate_grows_with_the_ranks() -> None:
    def on(rank: int) -> float:
        defense = Standard(plain_net(), optimizer=lambda p: torch.optim.SGD(p, lr=0.01), base_batch_size=4)
        trainer = ddp_trainer(max_epochs=1)
        trainer.fit(defense, Few(n=24, batch_size=4))
        return float(trainer.optimizers[0].param_groups[0]["lr"])

    assert run_ddp(on) == [pytest.approx(0.02)] * 2


def test_a_rate_that_cannot_be_scaled_is_refused() -> None:
    cyclic = Standard(
        plain_net(), scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 10), base_batch_size=4
    )
    with pytest.raises(ValueError, match="OneCycleLR sets rates of its own"):
        rates(cyclic)
    with pytest.raises(ValueError, match="needs a data module with a batch_size"):
        quiet_trainer(max_epochs=1).fit(Standard(plain_net(), base_batch_size=4), DataLoader(images(8), 4))


def test_the_default_optimizer_and_frozen_parameters() -> None:
    net = plain_net()
    net[0].requires_grad_(False)
    defense = Standard(net)
    optimizer = defense.configure_optimizers()
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in net[3].parameters()]
    assert {k: optimizer.defaults[k] for k in ("lr", "momentum", "weight_decay")} == {
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
    }
    fitted(defense, loader(4))
    torch.testing.assert_close(weights(net[0]), weights(plain_net()[0]), rtol=0, atol=0)
    assert not net[0].weight.requires_grad


# ------------------------------------------------------------------------------------------- modes and accumulation


@pytest.mark.parametrize(("bn", "updates"), [("eval", 1), ("batch", 1), ("train", 1 + 3)])
def test_running_statistics_move_as_attack_bn_says(bn: Any, updates: int) -> None:
    defense = AT(norm_net(), attack=FIXED, attack_bn=bn, optimizer=sgd)
    fitted(defense, loader(8), loader(8), epochs=2)
    assert int(defense.net[0].num_batches_tracked) == 4 * updates
    assert defense.net[0].training
    assert defense.net[0].track_running_stats


def test_attack_bn_decides_which_statistics_the_attack_sees() -> None:
    found = {}
    for bn in ("eval", "batch"):
        defense = AT(norm_net(), attack=PGD(Threat("l2", 0.3), 1, 0.3, "none"), attack_bn=bn)
        x, y = images(4).tensors
        found[bn] = defense.craft(Batch(x, y))
        net = norm_net().train(bn == "batch")
        z = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(cross_entropy(net(z), y, reduction="sum"), z)
        expected = (x + 0.3 * grad / grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(0, 1)
        torch.testing.assert_close(found[bn], expected)
    assert not torch.allclose(found["eval"], found["batch"], atol=1e-3)


def test_an_unknown_attack_bn_is_refused() -> None:
    with pytest.raises(ValueError, match="Unknown attack_bn 'evaluation': choose one of eval, batch, train"):
        fitted(AT(plain_net(), attack_bn="evaluation"), loader(4))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [Standard, AT])
def test_two_accumulated_batches_equal_one_of_twice_the_size(method: Any) -> None:
    small, big = (method(plain_net(), attack=FIXED, optimizer=sgd) for _ in range(2))
    fitted(small, loader(16, 4), epochs=2, accumulate_grad_batches=2)
    fitted(big, loader(16, 8), epochs=2)
    torch.testing.assert_close(weights(small), weights(big))
    assert not torch.allclose(weights(small.net)[0], weights(plain_net())[0], atol=1e-3)


# ----------------------------------------------------------------------------------------------------------- the log


@pytest.mark.parametrize("stage", ["validate", "test", "fit"])
def test_clean_accuracy_and_loss_are_over_samples_not_batches(stage: str) -> None:
    net, data = plain_net(), images(9)
    x, y = data.tensors
    right = (net(x).argmax(1) == y).float()
    assert right[:8].mean() != right[8]  # a mean of the batches' means would differ
    defense = Standard(net, optimizer=still)
    if stage == "fit":
        logged, prefix = fitted(defense, loader(4), DataLoader(data, 4)).callback_metrics, "val"
    else:
        trainer = quiet_trainer()
        getattr(trainer, stage)(defense, DataLoader(data, 4), verbose=False)
        logged, prefix = trainer.callback_metrics, {"validate": "val"}.get(stage, stage)
    assert float(logged[f"{prefix}/clean_acc"]) == pytest.approx(float(right.mean()))
    assert float(logged[f"{prefix}/loss"]) == pytest.approx(float(cross_entropy(net(x), y).detach()), rel=1e-5)


def test_training_loss_and_adversarial_accuracy_are_over_samples() -> None:
    net, (x, y) = plain_net(), images(9).tensors
    trainer = fitted(AT(net, attack=FIXED, optimizer=still), DataLoader(TensorDataset(x, y), 4))
    logits = net(FIXED(net, x, y))
    logged = trainer.callback_metrics
    assert float(logged["train/loss"]) == pytest.approx(float(cross_entropy(logits, y).detach()), rel=1e-5)
    assert float(logged["train/adv_acc"]) == pytest.approx(float((logits.argmax(1) == y).float().mean()))


def test_an_epochs_log_does_not_carry_into_the_next() -> None:
    seen = []

    class Watched(Standard):
        def on_train_epoch_end(self) -> None:
            seen.append(int(self._means["train_loss"].weight))

    fitted(Watched(plain_net()), loader(8), epochs=3)
    assert max(seen) <= 8


def test_the_defense_itself_is_the_classifier() -> None:
    defense, (x, y) = AT(plain_net()), images(5).tensors
    assert torch.equal(defense(x), plain_net()(x))
    for batch in (x, (x, y), [x, y, y], Batch(x, y)):
        assert torch.equal(defense.predict_step(batch, 0), plain_net()(x))
    out = quiet_trainer().predict(defense, Few())
    assert sum(map(len, out)) == 11


# ------------------------------------------------------------------------------------------------------- checkpoints


def saved(defense: Defense, folder: Path) -> Path:
    trainer = fitted(defense, loader(4))
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def test_a_checkpoint_holds_plain_data_and_restores_the_settings(tmp_path: Path) -> None:
    defense = AT(
        plain_net(), attack=FIXED, attack_bn="batch", scheduler_interval="step", regularizers=[Pull(1.0)], optimizer=sgd
    )
    path = saved(defense, tmp_path)
    stored = torch.load(path, weights_only=True)
    assert stored["hyper_parameters"]["attack_bn"] == "batch"
    back = AT.load_from_checkpoint(path, net=plain_net(seed=7), regularizers=[Pull(1.0)], weights_only=True)
    assert (back.hparams.attack_bn, back.hparams.scheduler_interval) == ("batch", "step")
    assert back.attack_bn == "batch"
    torch.testing.assert_close(weights(back), weights(defense), rtol=0, atol=0)


def test_the_state_holds_the_net_and_nothing_else(tmp_path: Path) -> None:
    stored = torch.load(saved(AT(plain_net(), attack=FIXED), tmp_path), weights_only=True)
    assert set(stored["state_dict"]) == {f"net.{name}" for name in plain_net().state_dict()}


def test_a_checkpoint_of_another_method_is_refused(tmp_path: Path) -> None:
    path = saved(AT(plain_net(), attack=FIXED), tmp_path)
    message = "written by AT, not by Standard: use the config it was trained with, or set the model's class_path to AT"
    with pytest.raises(ValueError, match=message):
        Standard.load_from_checkpoint(path, net=plain_net(), weights_only=True)
    with pytest.raises(ValueError, match=message):
        quiet_trainer().test(Standard(plain_net()), loader(4), ckpt_path=str(path), weights_only=True)
    with pytest.raises(ValueError, match=message):
        quiet_trainer(max_epochs=2).fit(Standard(plain_net()), loader(4), ckpt_path=str(path), weights_only=True)


def test_weights_are_in_channels_last_order_if_asked() -> None:
    one, other = (AT(plain_net(), attack=FIXED, optimizer=sgd, channels_last=flag) for flag in (True, False))
    fitted(one, loader(8))
    fitted(other, loader(8))
    assert one.net[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(weights(one), weights(other))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_attack_alone_runs_in_bf16_if_asked(precision: Any) -> None:
    attack = PGD(Threat("l2", 1.0), steps=3, start="none")  # in l2 every bit of a gradient counts
    reference, (x, y) = plain_net(), images(8).tensors
    defense = AT(plain_net(), attack=attack, attack_precision="bf16", optimizer=sgd)
    seen = []
    defense.net.register_forward_hook(lambda module, inputs, logits: seen.append((len(inputs[0]), logits.dtype)))
    fitted(defense, one_batch(x, y), precision=precision)
    whole = [dtype for n, dtype in seen if n == len(x)]
    own = torch.float32 if precision == "32-true" else torch.bfloat16
    assert whole == [own, *[torch.bfloat16] * attack.steps, own]  # the check of the first batch, the attack, the loss
    with torch.autocast("cpu", torch.bfloat16):
        x_adv = attack(reference, x, y)
    assert not torch.equal(x_adv, attack(reference, x, y))  # bf16 decides otherwise somewhere
    with torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true"):
        loss = cross_entropy(reference(x_adv), y)
    for p, g in zip(reference.parameters(), torch.autograd.grad(loss, list(reference.parameters())), strict=True):
        p.data -= RATE * g
    torch.testing.assert_close(weights(defense.net), weights(reference))


def test_an_attack_in_bf16_of_a_net_in_double_precision_is_refused() -> None:
    defense = AT(plain_net(dtype=torch.float64), attack_precision="bf16", optimizer=sgd)
    with pytest.raises(ValueError, match="does nothing to nets in double precision: leave one of them out"):
        fitted(defense, loader(4), precision="64-true")


def test_another_attack_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"attack_precision must be bf16 or left out, got 'fp16'\."):
        AT(plain_net(), attack_precision="fp16")  # type: ignore[arg-type]


@pytest.mark.slow
# the compiler's own use of torch: https://github.com/pytorch/pytorch/blob/main/torch/_inductor
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*TF32:UserWarning")
def test_compiled_training_is_the_same_under_the_same_names() -> None:
    def on(rank: int) -> dict[str, Tensor]:
        defense = AT(norm_net(), attack=FIXED, optimizer=sgd, compile=True)
        fitted(defense, loader(10), loader(6))
        assert defense.net._compiled_call_impl is not None
        return dict(defense.state_dict())

    # in a process of its own: the compiler starts threads of autograd, after which no other test could fork
    (compiled,) = run_ddp(on, ranks=1, timeout=300)
    eager = AT(norm_net(), attack=FIXED, optimizer=sgd)
    fitted(eager, loader(10), loader(6))
    assert list(compiled) == list(eager.state_dict())
    torch.testing.assert_close(list(compiled.values()), weights(eager), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
# the compiler looks at the gradient of what ST takes from its stack of images:
# https://github.com/pytorch/pytorch/pull/30531
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("method", [AT, TRADES, ST, IAAT])
def test_a_compiled_net_is_compiled_no_more_after_the_first_epoch(method: Any, tmp_path: Path) -> None:
    """Though attacks, losses and validations differ in modes and gradients, and last batches in size."""

    class Graphs(Callback):
        met = 0

        def __init__(self) -> None:
            self.ends: list[int] = []

        def backend(self, graph: Any, inputs: Any) -> Any:
            self.met += 1
            return graph.forward

        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            self.ends.append(self.met)

    def on(rank: int) -> list[int]:
        graphs, settings, compile_ = Graphs(), {"warmup": 0} if method is IAAT else {}, nn.Module.compile
        nn.Module.compile = partialmethod(compile_, backend=graphs.backend)  # type: ignore[assignment]
        torch._dynamo.config.fail_on_recompile_limit_hit = True  # instead of going on without compiling
        attack = PGD(Threat(eps=0.1), steps=2)
        defense = method(norm_net(), attack=attack, optimizer=sgd, compile=True, **settings)
        evaluation = RobustEvaluation({"pgd": PGD(Threat(eps=0.1), steps=2)}, figure_samples=0)
        data = Few(n=27, batch_size=8, seed=3)  # the last batch has three samples
        given: dict[str, Any] = {"num_sanity_val_steps": 0, "default_root_dir": tmp_path}
        quiet_trainer(max_epochs=4, callbacks=[graphs, evaluation], **given).fit(defense, data)
        return [*graphs.ends, graphs.met]

    # in a process of its own, as above
    ((none, first, *rest),) = run_ddp(on, ranks=1, timeout=300)
    assert none == 0
    assert first > 0
    assert set(rest) == {first}
