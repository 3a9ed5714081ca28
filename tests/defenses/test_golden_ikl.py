"""IKL and GKL (decoupled KL divergence) against one step of their authors' code, and the memory of class means."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_robust.attacks import PGD
from lightning_robust.defenses import IKL
from lightning_robust.defenses.ikl import spread
from lightning_robust.parts import AdversarialWeightPerturbation
from lightning_robust.threat import Threat
from lightning_robust.types import Batch
from tests.defenses.test_golden import Replay
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, Saves, norm_net, plain_net
from tests.helpers.second_ring import COMMON, RING, assert_same_gradients_and_buffers, batch, of, recorded

NAMES = [name for name in RING if name.startswith(("ikl", "gkl"))]


def made(name: str) -> IKL:
    record, h = RING[name], RING[name]["hparams"]
    attack = Replay(
        [of(record, "start")], Threat(eps=h["attack_eps"]), steps=h["attack_steps"], step_size=h["attack_step"]
    )
    assert (h["attack_alpha"], h["attack_gamma"]) == (1, 1)
    assert h["attack_beta"] in (0, 1)
    defense = IKL(
        recorded(record["base"]),
        alpha=h["alpha"],
        beta=h["beta"],
        temperature=h["T"],
        gamma=h.get("gamma", 1.0),
        ascend="loss" if h["attack_beta"] else "kl",
        attack=attack,
    )
    if h["class_weights"] == "common":
        weights = COMMON["class_weights"].double()
        defense.means.load_state_dict(
            {"values": weights, "sums": weights.new_zeros(len(weights), len(weights) + 1), "epoch": 0}
        )
    else:
        assert h["class_weights"] == "1/C"  # those of the first epoch
    return defense


@pytest.mark.parametrize("name", NAMES)
def test_the_authors_step(name: str) -> None:
    record, defense = RING[name], made(name)
    views = defense.generate(batch())
    torch.testing.assert_close(views.adv, of(record, "x_adv"), rtol=0, atol=1e-9)
    given = batch()
    if "awp" in record:
        weights = [defense.net.get_parameter(key) for key in of(record, "awp")]
        perturbation = AdversarialWeightPerturbation(record["hparams"]["awp_gamma"])
        perturbation(defense.net, lambda: defense.loss(given, views).total, 0)
        clean = COMMON[record["base"]]
        for weight, (key, theirs) in zip(weights, of(record, "awp").items(), strict=True):
            moved = (weight.detach() - clean[key].double()) / record["hparams"]["awp_gamma"]
            torch.testing.assert_close(moved, theirs, rtol=1e-9, atol=1e-9, msg=key)
    loss = defense.loss(given, views).total.mean()
    torch.testing.assert_close(loss, of(record, "loss"), rtol=1e-9, atol=1e-11)
    assert_same_gradients_and_buffers(defense.net, loss, record)
    before = defense.means(torch.eye(len(COMMON["class_weights"]), dtype=torch.float64))
    defense.remember()
    defense.means.enter(1, of(record, "outputs")["nat"])
    after = defense.means(torch.eye(len(before), dtype=torch.float64))
    theirs = of(record, "class_weights_after").double()
    seen = torch.zeros(len(before), dtype=torch.bool).index_fill(0, given.y, True)
    torch.testing.assert_close(after[seen], theirs[seen], rtol=1e-9, atol=1e-11)
    assert theirs[~seen].isnan().all()  # 0 / 0 in the authors' code
    assert torch.equal(after[~seen], before[~seen])


# ---------------------------------------------------------------------------------------------------------- the terms


def test_the_quadratic_term_is_the_sum_over_pairs_and_its_gradient() -> None:
    g = torch.Generator().manual_seed(0)
    z, z_adv = (torch.randn(5, 4, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(2))
    w = torch.rand(5, 4, generator=g, dtype=torch.float64)
    pairs = (z[:, :, None] - z[:, None]) - (z_adv[:, :, None] - z_adv[:, None])
    by_hand = (w[:, :, None] * w[:, None] * pairs.square()).sum((1, 2))
    torch.testing.assert_close(spread(z, z_adv, w), by_hand)
    for ours, theirs in zip(
        *(torch.autograd.grad(v.sum(), (z, z_adv)) for v in (spread(z, z_adv, w), by_hand)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_class_that_was_never_seen_is_uniform_and_one_that_is_missed_keeps_its_mean() -> None:
    defense, x = small(), torch.rand(4, 1, 4, 4)
    for epoch, y in enumerate(([0, 0, 1, 0], [0, 0, 0, 0])):
        given = Batch(x, torch.tensor(y))
        defense.means.enter(epoch, torch.zeros(4, 3))
        defense.loss(given, defense.generate(given))
        defense.remember()
    defense.means.enter(2, torch.zeros(4, 3))
    p = (defense.net(x) / defense.temperature).softmax(1).detach()
    expected = torch.stack([p.mean(0), p[2], torch.full((3,), 1 / 3)])
    torch.testing.assert_close(defense.means(torch.eye(3)), expected)


# ---------------------------------------------------------------------------------------------- ranks and checkpoints


def small(net: torch.nn.Module | None = None, **settings: Any) -> IKL:
    attack = PGD(Threat(eps=0.1), steps=2, step_size=0.05, start="normal")
    given: dict[str, Any] = {"attack": attack, "gamma": 0.5, "ascend": "loss", **settings}
    return IKL(net or plain_net(), optimizer=lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9), **given)


def state(defense: IKL) -> list[Tensor]:
    return [defense.means.values, defense.means._sums, *(v.detach().clone() for v in defense.net.state_dict().values())]


@pytest.mark.parametrize("step", [8, 10])  # at the end of an epoch of 4 steps, and within one
def test_a_run_that_is_stopped_goes_on_to_the_same_end(step: int, tmp_path: Path) -> None:
    whole = small(norm_net())
    quiet_trainer(max_epochs=4, callbacks=[Saves(step, tmp_path / "first.ckpt")]).fit(whole, Few(n=16, seed=3))
    resumed = small(norm_net(7))
    path = str(tmp_path / "first.ckpt")
    quiet_trainer(max_epochs=4).fit(resumed, Few(n=16, seed=3), ckpt_path=path, weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(state(resumed), state(whole), strict=True))
    assert not torch.allclose(whole.means.values, torch.full((3, 3), 1 / 3, dtype=torch.float64), atol=1e-3)


def test_weight_perturbations_add_an_output_once() -> None:
    defense = small(weight_perturbation=AdversarialWeightPerturbation(0.01))
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(defense, Few(n=16, seed=3))
    assert defense.means.gathered()[:, -1].sum().item() == pytest.approx(16)


@pytest.mark.slow
def test_two_ranks_equal_one_process_also_resumed_on_another_number(tmp_path: Path) -> None:
    def on(ranks: int, resume: bool = False) -> list[Tensor]:
        defense = small(plain_net(dtype=torch.float64))
        own: dict[str, Any] = {
            "max_epochs": 3,
            "precision": "64-true",
            "callbacks": [Saves(6, tmp_path / f"{ranks}.ckpt")],
        }
        trainer = ddp_trainer(ranks, **own) if ranks > 1 else quiet_trainer(**own)
        path = str(tmp_path / f"{3 - ranks}.ckpt") if resume else None
        trainer.fit(defense, Few(n=16, batch_size=4 // ranks, seed=3), ckpt_path=path, weights_only=True)
        return [defense.means.values, defense.means.gathered(), *state(defense)[2:]]

    alone = on(1)
    for own in [*run_ddp(lambda rank: on(2)), *run_ddp(lambda rank: on(2, resume=True)), on(1, resume=True)]:
        torch.testing.assert_close(own, alone, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("settings", [{"alpha": -1}, {"beta": -1}, {"temperature": 0}, {"gamma": 1.5}])
def test_settings_out_of_range_are_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match=r"IKL needs alpha, beta >= 0, temperature > 0 and gamma in \[0, 1\]"):
        small(**settings)


def test_other_classes_in_a_checkpoint_and_starts_without_gradient_are_refused() -> None:
    defense = small()
    defense.means.load_state_dict({"values": torch.eye(5), "sums": torch.zeros(5, 6), "epoch": 0})
    with pytest.raises(ValueError, match="remembers 5 classes but the net has 3 logits"):
        defense.generate(Batch(torch.rand(2, 1, 4, 4), torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="no gradient at the clean image"):
        small(attack=PGD(start="none"))
    with pytest.raises(ValueError, match="choose kl or loss"):
        small(ascend="ce")
