"""IAAT: radii by hand on a linear net, lazily and in full, over ranks, in checkpoints."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_robust.attacks import PGD
from lightning_robust.data import Indexed
from lightning_robust.defenses import AT, IAAT, Standard
from lightning_robust.threat import Threat
from lightning_robust.types import Batch
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, norm_net, plain_net
from tests.helpers.foreign import images, loader
from tests.helpers.toys import linear_net

EPS = 0.1
# its warning of sharding is for strategies that shard:
# https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/callbacks/weight_averaging.py
pytestmark = pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback with a model that overrides")


def made(net: torch.nn.Module | None = None, lr: float = 0.3, **settings: Any) -> IAAT:
    given = {"gamma": 0.03, "beta": 0.4, "warmup": 1, "attack": PGD(Threat(eps=EPS), steps=3, step_size=0.04)}
    return IAAT(
        net or plain_net(),
        optimizer=lambda params: torch.optim.SGD(params, lr=lr, momentum=0.9),
        **{**given, **settings},
    )


def weights(net: torch.nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in net.state_dict().values()]


class Radii(Callback):
    """Keeps the radii after each epoch, when the ranks have exchanged them."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch:
            self.seen.append(pl_module.radii.values.clone())

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append(pl_module.radii.values.clone())


class Keeping(IAAT):
    def generate(self, batch: Batch) -> Any:
        views = super().generate(batch)
        self.examples = [*getattr(self, "examples", []), views.adv]
        return views


# ------------------------------------------------------------------------------------------------------------- by hand

W = torch.randn(16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
GREY = 0.5 + 0.1 * (torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - 0.5)
DISTANCE = torch.tensor(
    [-0.02, 0.01, 0.035, 0.055, 0.08, 0.12, 0.2, 0.31], dtype=torch.float64
)  # to the boundary, linf


def on_a_line(**settings: Any) -> tuple[IAAT, Batch]:
    """A net on which sample i withstands exactly the radii below DISTANCE[i], and is wrong where that is negative."""
    shift = DISTANCE * W.abs().sum() - GREY.flatten(1) @ W  # moves each image to its distance
    x = GREY + (shift / W.abs().sum()).view(-1, 1, 1, 1) * W.sign().view(1, 1, 4, 4)
    attack = PGD(Threat(eps=EPS, lower=-9.0, upper=9.0), steps=10, step_size=0.03)
    defense = made(linear_net(torch.stack([W, -W])), attack=attack, warmup=0, **settings)
    defense.radii.prepare(8, torch.device("cpu"))
    return defense, Batch(x, torch.zeros(8, dtype=torch.long), torch.arange(8))


def expected(visits: int, gamma: float, beta: float, cap: float | None) -> list[Any]:
    """The recurrence, sample by sample."""
    out, e = [], np.zeros(8)
    for _ in range(visits):
        for i, distance in enumerate(DISTANCE.tolist()):
            target = e[i] + gamma if distance > e[i] + gamma else e[i] if distance > e[i] else e[i] - gamma
            target = max(target, 0.0) if distance > 0 else 0.0
            e[i] = beta * target + (1 - beta) * e[i]
            if cap is not None:
                e[i] = min(e[i], cap)
        out.append(e.copy())
    return out


@pytest.mark.parametrize("probing", ["lazy", "all"])
@pytest.mark.parametrize(("gamma", "beta", "cap"), [(0.03, 0.4, None), (0.05, 1.0, None), (0.05, 1.0, 0.12)])
def test_radii_follow_the_recurrence_on_a_linear_net(probing: Any, gamma: float, beta: float, cap: Any) -> None:
    defense, batch = on_a_line(gamma=gamma, beta=beta, cap=cap, probing=probing)
    found = []
    for _ in range(12):
        views = defense.generate(batch)
        found.append(defense.radii.values.numpy().copy())
        size = (views.adv - batch.x).flatten(1).abs().amax(1)
        assert (size <= defense.radii.values + 1e-6).all()
    np.testing.assert_allclose(found, expected(12, gamma, beta, cap), atol=1e-6)
    assert found[-1].min() == 0  # the one that is wrong
    if cap is not None:
        assert found[-1].max() == np.float32(cap)
    else:
        assert found[-1].max() > EPS  # no cap: beyond the attack's own radius


def test_a_radius_never_falls_below_zero() -> None:
    defense, batch = on_a_line(gamma=0.05, beta=1.0)
    for start in (0.0, 0.02, 0.04):  # beyond what the first three withstand, and less than gamma
        defense.radii[batch.index] = torch.full((8,), start)
        defense.generate(batch)
        assert defense.radii.values.min() == 0
        assert float(defense.radii.values[0]) == 0


@pytest.mark.parametrize("probing", ["lazy", "all"])
def test_a_radius_of_zero_means_the_clean_image(probing: Any) -> None:
    defense, batch = on_a_line(probing=probing)
    views = defense.generate(batch)
    zero = defense.radii.values == 0
    assert zero.any()
    assert not zero.all()
    assert torch.equal(views.adv[zero], batch.x[zero])
    assert (views.adv[~zero] != batch.x[~zero]).flatten(1).any(1).all()


def test_in_the_warm_up_the_radius_is_the_attacks_where_the_clean_image_is_right() -> None:
    net, log = plain_net(), Radii()
    x, right = images(8).tensors[0], torch.tensor([True, False] * 4)
    y = (net(x).argmax(1) + ~right) % 3
    defense = made(net, lr=0.0, warmup=2)
    quiet_trainer(max_epochs=2, callbacks=[log]).fit(defense, DataLoader(Indexed(TensorDataset(x, y)), 4))
    for radii in log.seen:
        assert torch.equal(radii, EPS * right.float())


# ----------------------------------------------------------------------------------------------------- lazy and in full


def run(defense: IAAT, epochs: int = 4) -> tuple[list[Tensor], list[Tensor]]:
    log = Radii()
    quiet_trainer(max_epochs=epochs, callbacks=[log]).fit(defense, Few(n=16, seed=3))
    return log.seen, weights(defense.net)


def test_lazy_probing_that_starts_afresh_is_probing_all() -> None:
    lazy, full = Keeping(**settings()), Keeping(**settings(), probing="all")
    lazy.refine_steps = None
    (radii, end), (radii_full, end_full) = run(lazy), run(full)
    torch.testing.assert_close(radii, radii_full, rtol=0, atol=0)
    torch.testing.assert_close(lazy.examples, full.examples, rtol=0, atol=1e-6)
    torch.testing.assert_close(end, end_full)
    assert len(radii[-1].unique()) > 5


def settings(**others: Any) -> dict[str, Any]:
    return {
        "net": norm_net(),
        "gamma": 0.03,
        "beta": 0.4,
        "warmup": 1,
        "attack": PGD(Threat(eps=EPS), steps=3, step_size=0.04),
        "optimizer": lambda params: torch.optim.SGD(params, lr=0.3),
        **others,
    }


def test_lazy_probing_decides_as_probing_all_at_the_same_weights_whatever_it_trains_on() -> None:
    """Epoch after epoch, with weights that do not depend on the examples."""
    (radii, _), (full, _) = (run(made(norm_net(), lr=0.0, probing=probing), 6) for probing in ("lazy", "all"))
    torch.testing.assert_close(radii, full, rtol=0, atol=0)
    assert len(radii[-1].unique()) > 5


def test_lazy_probing_draws_the_same_noise_for_a_sample_as_probing_all(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(8).tensors[0]
    y = (plain_net()(x).argmax(1) + torch.tensor([0, 0, 1, 0, 1, 0, 0, 1])) % 3  # three are wrong, and left out
    probes: dict[str, list[Tensor]] = {}
    for probing in ("lazy", "all"):
        attack = PGD(Threat("l2", 1.0), steps=1, step_size=0.01)
        defense = made(attack=attack, probing=probing, warmup=0, gamma=0.5)
        defense.radii.load_state_dict({"values": torch.full((8,), 1.0)})
        defense.radii.prepare(8, torch.device("cpu"))
        found, run_attack = probes.setdefault(probing, []), defense._attack
        monkeypatch.setattr(defense, "_attack", lambda *args, f=found, a=run_attack: (f.append(a(*args)), f[-1])[1])
        defense.generate(Batch(x, y, torch.arange(8)))
    right = torch.tensor([True, True, False, True, False, True, True, False])
    torch.testing.assert_close(probes["lazy"][0], probes["all"][1][right])  # both at the raised radius
    assert len(probes["lazy"][1]) < 5  # at the present one, only those that fell


def test_lazy_probing_attacks_only_where_the_answer_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    defense, batch = on_a_line(gamma=0.03, beta=1.0)
    defense.radii[batch.index] = torch.full((8,), 0.04)
    sizes = []
    attack = defense._attack
    monkeypatch.setattr(defense, "_attack", lambda aim, x, *args: (sizes.append(len(x)), attack(aim, x, *args))[1])
    defense.generate(batch)
    # the raised radius for the 7 that are right, the present one for the 3 that fell at 0.07, then the whole batch
    assert sizes == [7, 3, 8]


def test_continued_examples_lie_in_their_balls_and_are_stronger_than_the_clean_image() -> None:
    defense, x = made(refine_steps=2, warmup=0, beta=1.0), images(8).tensors[0]
    y = defense.net(x).argmax(1)
    defense.radii.prepare(8, torch.device("cpu"))
    batch = Batch(x, y, torch.arange(8))
    for _ in range(3):
        adv = defense.generate(batch).adv
    assert ((adv - x).flatten(1).abs().amax(1) <= defense.radii.values + 1e-6).all()
    loss = [torch.nn.functional.cross_entropy(defense.net(z), y, reduction="none").detach() for z in (adv, x)]
    positive = defense.radii.values > 0
    assert positive.any()
    assert (loss[0] > loss[1])[positive].all()


def test_with_equal_radii_that_do_not_move_it_is_adversarial_training() -> None:
    x = images(8).tensors[0]
    y = plain_net()(x).argmax(1)  # all are right, and stay so at this rate
    data = DataLoader(Indexed(TensorDataset(x, y)), 4)
    attack = PGD(Threat(eps=EPS), steps=4, step_size=0.05, start="none")
    reference = AT(plain_net(), attack=attack, optimizer=lambda params: torch.optim.SGD(params, lr=0.01))
    quiet_trainer(max_epochs=3).fit(reference, data)
    for probing in ("lazy", "all"):
        defense = made(attack=attack, gamma=0.0, warmup=0, probing=probing, refine_steps=None)
        defense._optimizer = reference._optimizer
        defense.radii.load_state_dict({"values": torch.full((8,), EPS)})
        quiet_trainer(max_epochs=3).fit(defense, data)
        torch.testing.assert_close(defense.radii.values, torch.full((8,), EPS))
        torch.testing.assert_close(weights(defense.net), weights(reference.net), rtol=1e-6, atol=1e-7)
    assert not torch.equal(reference.net[0].weight, plain_net()[0].weight)


# ------------------------------------------------------------------------------------------------ ranks and checkpoints


def on_ranks(ranks: int, **trainer: Any) -> list[Any]:
    def on(rank: int) -> Any:
        defense, log = made(plain_net(dtype=torch.float64)), Radii()
        # in double precision only the order of summation differs; four batches an epoch, each of 4 in all
        own = {"max_epochs": 3, "precision": "64-true", "callbacks": [log], **trainer}
        fitting = ddp_trainer(ranks, **own) if ranks > 1 else quiet_trainer(**own)
        fitting.fit(defense, Few(n=16, batch_size=4 // ranks, seed=3))
        logged = {k: float(v) for k, v in fitting.callback_metrics.items() if "radius" in k}
        return log.seen, weights(defense.net), logged

    return run_ddp(on, ranks)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_radii_are_equal_on_both_ranks_and_to_one_process(accumulate: int) -> None:
    ((alone, end, logged),) = on_ranks(1, accumulate_grad_batches=accumulate)
    for radii, own, quantiles in on_ranks(2, accumulate_grad_batches=accumulate):
        torch.testing.assert_close(radii, alone, rtol=0, atol=0)
        torch.testing.assert_close(own, end, rtol=1e-10, atol=1e-12)
        assert quantiles == pytest.approx(logged)
    assert len(alone[-1].unique()) > 5
    assert logged == pytest.approx(
        {f"train/radius_q{q}": float(np.quantile(alone[-1].numpy(), q / 100)) for q in (10, 50, 90)}
    )


def test_weight_averaging_leaves_the_radii_alone() -> None:
    without, averaged = (Radii(), Radii())
    for log, others in ((without, []), (averaged, [EMAWeightAveraging(decay=0.5)])):
        defense = made()
        quiet_trainer(max_epochs=3, callbacks=[log, *others]).fit(defense, Few(n=16, seed=3))
    torch.testing.assert_close(averaged.seen, without.seen, rtol=0, atol=0)


def saved(folder: Path) -> tuple[IAAT, Path]:
    defense = made()
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(defense, Few(n=16, seed=3))
    trainer.save_checkpoint(folder / "last.ckpt")
    return defense, folder / "last.ckpt"


def test_radii_are_plain_tensors_under_their_own_key(tmp_path: Path) -> None:
    defense, path = saved(tmp_path)
    stored = torch.load(path, weights_only=True)
    assert torch.equal(stored["radii"]["values"], defense.radii.values)
    assert not any("radii" in name for name in stored["state_dict"])
    back = IAAT.load_from_checkpoint(path, net=plain_net(seed=7), weights_only=True)
    assert torch.equal(back.radii.values, defense.radii.values)


def test_a_checkpoint_goes_on_only_with_as_many_samples(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    data = Few(n=17, seed=3)
    data.setup("fit")
    loaders = data.train_dataloader(), data.val_dataloader()  # a data module of ours notices it first
    with pytest.raises(ValueError, match="remembers 16 training samples but the training set has 17"):
        quiet_trainer(max_epochs=3).fit(made(), *loaders, ckpt_path=str(path), weights_only=True)


def test_a_checkpoint_of_another_method_is_refused(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    with pytest.raises(ValueError, match="written by IAAT, not by Standard"):
        Standard.load_from_checkpoint(path, net=plain_net(), weights_only=True)


def test_batches_without_index_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"wrap the training set in lightning_robust\.data\.Indexed\(dataset\)"):
        quiet_trainer(max_epochs=1).fit(made(), loader(4))


@pytest.mark.parametrize("attack_bn", ["batch", "train"])
def test_lazy_probing_needs_samples_that_do_not_see_each_other(attack_bn: Any) -> None:
    with pytest.raises(
        ValueError, match=f"attack_bn='{attack_bn}' does not allow: set probing='all' or attack_bn='eval'"
    ):
        made(attack_bn=attack_bn)
    made(attack_bn=attack_bn, probing="all")
    net = torch.nn.Sequential(norm_net(), torch.nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(ValueError, match=r"without running statistics does not allow: set probing='all'\."):
        made(net)
    made(net, probing="all")


@pytest.mark.parametrize("settings", [{"gamma": -1.0}, {"beta": 0.0}, {"beta": 1.5}, {"warmup": -1}, {"cap": -0.1}])
def test_settings_out_of_range_are_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match=r"IAAT needs gamma, warmup and cap >= 0 and beta in \(0, 1\], got"):
        made(**settings)


def test_radii_may_be_written_as_fractions() -> None:
    defense = made(gamma="1.9/255", cap="16/255")
    assert (defense.gamma, defense.cap) == (1.9 / 255, 16 / 255)


@pytest.mark.parametrize("probing", ["lazy", "all"])
def test_all_that_is_asked_of_a_sample_in_a_step_leads_to_one_random_class(
    probing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    defense = IAAT(
        plain_net(),
        attack=PGD(Threat(eps=0.1), steps=2, targeted=True, random_targets=3),
        gamma=0.02,
        warmup=1,
        probing=probing,
    )
    seen: dict[tuple[int, int], set[tuple[int, int]]] = {}
    call = PGD.__call__

    def watched(self: PGD, net: Any, x: Tensor, target: Tensor, **settings: Any) -> Tensor:
        assert self.targeted
        assert self.random_targets is None
        for image, goal in zip(x, target.tolist(), strict=True):
            key = (defense.current_epoch, hash(image.numpy().tobytes()))
            seen.setdefault(key, set()).add((goal, 0))
        return call(self, net, x, target, **settings)

    monkeypatch.setattr(PGD, "__call__", watched)
    quiet_trainer(max_epochs=3, limit_val_batches=0).fit(defense, Few(n=24, batch_size=8))
    assert len(seen) == 3 * 24
    assert all(len(goals) == 1 for goals in seen.values())


@pytest.mark.parametrize(
    ("ids", "keys", "message"),
    [
        (lambda i: i % 3, {}, r"wrap the training set in lightning_robust\.data\.Indexed\(dataset\), or set index_key"),
        (lambda i: i, {}, "or set index_key"),  # right, but nobody said so
        (lambda i: i % 3, {"index_key": 2}, "index_key names stands several times in a batch"),
        (
            lambda i: i + 1,
            {"index_key": 2},
            r"training set of 8 samples range over \[\d, 8\] in a batch: set index_key",
        ),
        (lambda i: i - 1, {"index_key": 2}, r"range over \[-1, \d\] in a batch"),
    ],
)
def test_a_third_tensor_that_is_no_position_is_refused(ids: Any, keys: Any, message: str) -> None:
    x, y = images(8).tensors
    data = DataLoader(TensorDataset(x, y, ids(torch.arange(8))), 8)
    with pytest.raises(ValueError, match=message):
        quiet_trainer(max_epochs=1).fit(IAAT(plain_net(), warmup=0, **keys), data)


def test_positions_under_a_key_are_those_of_indexed() -> None:
    x, y = images(8).tensors
    order = [3, 1, 7, 0, 2, 6, 4, 5]
    found = []
    for data, keys in ((TensorDataset(x, y, torch.arange(8)), {"index_key": 2}), (Indexed(TensorDataset(x, y)), {})):
        defense = IAAT(plain_net(), attack=PGD(Threat(eps=0.1), steps=2), warmup=0, gamma=0.05, **keys)
        quiet_trainer(max_epochs=2).fit(defense, DataLoader(data, 4, sampler=order))
        found.append(defense.radii.values)
    assert torch.equal(*found)
    assert len(found[0].unique()) > 1


class Endless(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(Indexed(images(4)))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (lambda: DataLoader(Endless(), 2), "but got a DataLoader over a Endless"),
        (lambda: [DataLoader(Indexed(images(4)), 2), DataLoader(Indexed(images(4)), 2)], "but got a list over no one"),
        (lambda: {"a": DataLoader(Indexed(images(4)), 2)}, "but got a dict over no one dataset"),
    ],
)
def test_other_training_loaders_are_refused(data: Any, told: str) -> None:
    with pytest.raises(ValueError, match=f"it needs one training data loader over a dataset with a length, {told}"):
        quiet_trainer(max_epochs=1).fit(made(), data())


def test_a_sampler_with_replacement_may_repeat_positions() -> None:
    x, y = images(8).tensors
    drawn = torch.utils.data.RandomSampler(range(8), replacement=True, num_samples=16)
    data = DataLoader(TensorDataset(x, y, torch.arange(8)), 8, sampler=drawn)
    quiet_trainer(max_epochs=1).fit(made(index_key=2), data)
