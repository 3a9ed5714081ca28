"""MMA and OMMA against one step of their authors' code, and boundaries that are known."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import AveragedWeights
from lightning_robust.defenses import MMA
from lightning_robust.losses import cross_entropy, soft_margin
from lightning_robust.threat import Threat
from lightning_robust.types import Batch
from tests.defenses.test_golden import Replay
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, Saves, norm_net, plain_net
from tests.helpers.second_ring import RING, assert_same_gradients_and_buffers, batch, of, recorded
from tests.helpers.toys import linear_net

NAMES = [name for name in RING if name.split("_")[0] in ("mma", "omma")]


class Scaled(Replay):
    """Takes steps in proportion to each sample's radius, as PGD's own are with 2.5."""

    scale = 2.5

    def __call__(self, net: Any, x: Tensor, target: Tensor, **given: Any) -> Tensor:
        return super().__call__(net, x, target, step_size=self.scale * given["eps"] / self.steps, **given)


def made(name: str, **settings: Any) -> tuple[MMA, Batch]:
    record, h = RING[name], RING[name]["hparams"]
    norm = h["norm"].lower()
    starts = [] if record["start"] is None else [of(record, "start")]
    attack = Scaled(starts, Threat(norm, 8 / 255, box_first=norm == "l2"), steps=h["steps"])
    attack.scale = h["eps_iter_scale"]
    theirs: dict[str, Any] = {
        "hinge": h["hinge_maxeps"],
        "min_radius": h["mineps"],
        "clean_weight": h["clean_loss_coeff"],
        "search_steps": h["num_search_steps"],
        "search_bn": "train",
        "clamp": False,
    }
    defense = MMA(recorded(record["base"]), attack=attack, **{**theirs, **settings})
    assert h["maxeps"] == pytest.approx(1.05 * h["hinge_maxeps"])
    memory = of(record, "memory_before")
    defense.radii.load_state_dict({"values": memory})
    defense.radii.prepare(len(memory), torch.device("cpu"))
    return defense, batch()._replace(index=record["index"])


@pytest.mark.parametrize("name", NAMES)
def test_the_authors_step(name: str) -> None:
    record, (defense, given) = RING[name], made(name)
    views = defense.generate(given)
    close: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(views.more["radii"], of(record, "epsilon"), **close)
    torch.testing.assert_close(defense.radii.values, of(record, "memory_after"), **close)
    torch.testing.assert_close(views.adv, of(record, "x_adv"), **close)
    assert torch.equal(views.more["radii"] > 0, record["correct"])
    losses, c = defense.loss(given, views), record["hparams"]["clean_loss_coeff"]
    torch.testing.assert_close(losses.parts["margin"].mean(), of(record, "loss"), **close)
    if c:
        torch.testing.assert_close(losses.parts["clean"].mean(), of(record, "clean_loss"), **close)
    expected = (1 - c) * of(record, "loss") + c * of(record, "clean_loss")
    torch.testing.assert_close(losses.total.mean(), expected, **close)
    assert_same_gradients_and_buffers(defense.net, losses.total.mean(), record)


# -------------------------------------------------------------------------------------------------- known boundaries


W = torch.randn(16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
DISTANCE = torch.tensor([-0.02, 0.003, 0.02, 0.03, 0.045, 0.2], dtype=torch.float64)  # to the boundary, linf


def on_a_line(spread: float = 0.02, **settings: Any) -> tuple[MMA, Batch]:
    """Two classes with logits +-w.x: sample i has its soft margin, the difference of logits, 0 at DISTANCE[i]."""
    x = 0.5 + spread * torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    shift = (DISTANCE * W.abs().sum() - (x.flatten(1) - 0.5) @ W) / W.abs().sum()
    x = x + shift.view(-1, 1, 1, 1) * W.sign().view(1, 1, 4, 4)
    net = linear_net(torch.stack([W, -W]), torch.stack([-0.5 * W.sum(), 0.5 * W.sum()]))
    attack = PGD(Threat(eps=0.1), steps=10)
    defense = MMA(net, attack=attack, **{"hinge": 0.04, "search_steps": 30, **settings})
    defense.radii.load_state_dict({"values": torch.zeros(6, dtype=torch.float64)})
    defense.radii.prepare(6, torch.device("cpu"))
    return defense, Batch(x, torch.zeros(6, dtype=torch.long), torch.arange(6))


def test_the_radius_is_the_distance_to_the_boundary_up_to_the_largest() -> None:
    defense, given = on_a_line()
    expected = DISTANCE.clamp(0, 1.05 * 0.04)
    for _ in range(2):  # from whatever radius the search begins
        views = defense.generate(given)
        torch.testing.assert_close(views.more["radii"], expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(defense.radii.values, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close((views.adv - given.x).flatten(1).abs().amax(1), expected, rtol=0, atol=1e-9)
    margin = soft_margin(defense.net(views.adv), given.y).detach()
    torch.testing.assert_close(margin[1:4], torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("c", [0.0, 0.25])
def test_samples_beyond_the_hinge_count_by_their_clean_loss_alone(c: float) -> None:
    defense, given = on_a_line(clean_weight=c)
    views = defense.generate(given)
    losses = defense.loss(given, views)
    robust, clean = (cross_entropy(defense.net(x), given.y).detach() for x in (views.adv, given.x))
    counts = torch.tensor([1, 1, 1, 1, 0, 0])
    torch.testing.assert_close(losses.total.detach(), (1 - c) * counts * robust + c * clean)
    assert ("clean" in losses.parts) == bool(c)


def test_a_step_of_the_bisection_halves_the_interval() -> None:
    """From 0.005 on: 0.02 is above, then [0.005, 0.042], [0.005, 0.0235], [0.01425, 0.0235], [0.018875, 0.0235]."""
    for steps, radius in ((1, 0.0235), (2, 0.01425), (3, 0.018875), (4, 0.0211875)):
        defense, given = on_a_line(search_steps=steps)
        assert defense.generate(given).more["radii"][2].item() == pytest.approx(radius, abs=1e-9)


def test_examples_stay_in_the_box_as_the_points_of_the_search_do() -> None:
    outside = []
    for clamp in (True, False):
        defense, given = on_a_line(0.06, clamp=clamp)
        defense.attack = PGD(Threat(eps=0.05, lower=0.47, upper=0.53), steps=10)
        adv = defense.generate(given._replace(x=given.x.clamp(0.47, 0.53))).adv
        outside.append(bool((adv < 0.47 - 1e-12).any() or (adv > 0.53 + 1e-12).any()))
    assert outside == [False, True]


# ---------------------------------------------------------------------------------------------- ranks and checkpoints


def small(net: torch.nn.Module | None = None, **settings: Any) -> MMA:
    given: dict[str, Any] = {"hinge": 0.8, "min_radius": 0.05, "attack": PGD(Threat(eps=0.1), steps=3), **settings}
    net = net or plain_net()
    for layer in (module for module in net if hasattr(module, "weight") and module.weight.dim() > 1):
        layer.weight.data *= 4  # so that boundaries lie within the box
    return MMA(net, optimizer=lambda params: torch.optim.SGD(params, lr=0.03, momentum=0.9), **given)


def state(defense: MMA) -> list[Tensor]:
    return [defense.radii.values, *(value.detach().clone() for value in defense.net.state_dict().values())]


def test_a_run_that_is_stopped_within_an_epoch_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole = small(norm_net(), search_bn="train")
    saves = Saves(10, tmp_path / "first.ckpt")  # of 4 steps an epoch
    quiet_trainer(max_epochs=4, callbacks=[AveragedWeights(decay=0.5), saves]).fit(whole, Few(n=16, seed=3))
    resumed = small(norm_net(7), search_bn="train")
    path = str(tmp_path / "first.ckpt")
    trainer = quiet_trainer(max_epochs=4, callbacks=[AveragedWeights(decay=0.5)])
    trainer.fit(resumed, Few(n=16, seed=3), ckpt_path=path, weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(state(resumed), state(whole), strict=True))
    assert len(whole.radii.values.unique()) > 3


@pytest.mark.slow
def test_two_ranks_equal_one_process() -> None:
    def on(ranks: int) -> list[Tensor]:
        defense = small(plain_net(dtype=torch.float64))
        own: dict[str, Any] = {"max_epochs": 3, "precision": "64-true"}
        trainer = ddp_trainer(ranks, **own) if ranks > 1 else quiet_trainer(**own)
        trainer.fit(defense, Few(n=16, batch_size=4 // ranks, seed=3))
        return state(defense)

    alone = on(1)
    assert len(alone[0].unique()) > 3
    for own in run_ddp(lambda rank: on(2)):
        torch.testing.assert_close(own, alone, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"hinge": 0.001}, "0 < min_radius <= hinge"),
        ({"min_radius": 0.0}, "0 < min_radius <= hinge"),
        ({"clean_weight": 1.0}, r"clean_weight in \[0, 1\)"),
        ({"search_steps": 0}, "search_steps >= 1"),
        ({"attack": PGD(momentum=1.0)}, "leave targeted, momentum, restarts and clean_start out"),
    ],
)
def test_settings_out_of_range_are_refused(settings: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        small(**settings)


def test_synchronised_batch_norms_that_would_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_robust.runtime.ranks.world_size", lambda: 2)
    defense = small(torch.nn.SyncBatchNorm.convert_sync_batchnorm(norm_net()), search_bn="train")
    defense.radii.prepare(4, torch.device("cpu"))
    given = Batch(torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 0]), torch.arange(4))
    with pytest.raises(ValueError, match="set attack_bn and search_bn to eval"):
        defense.generate(given)
