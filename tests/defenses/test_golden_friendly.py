"""Friendly adversarial training against what the authors' code computed, in float64: FAT, FAT-TRADES, FAT-MART."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_robust.attacks import PGD, FriendlyPGD
from lightning_robust.callbacks import AttackStrength
from lightning_robust.defenses import AT, MART, SCOREAT, ST, TRADES, Defense
from lightning_robust.schedules import PiecewiseConstant
from lightning_robust.threat import Threat
from lightning_robust.types import Batch
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, norm_net, plain_net
from tests.helpers.second_ring import RING, assert_same_step, batch, of, recorded, replayed

RECORDS = [name for name in RING if name.startswith("fat_")]


class Recorded:
    """The record's noise in place of random numbers."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.left = iter(zip(record["active"], record.get("noise", record["active"]), strict=True))

    def normal(self, x: Tensor) -> Tensor:
        active, noise = next(self.left)
        return torch.zeros_like(x).index_copy(0, active, noise.double())


class Watched(FriendlyPGD):
    """Counts the samples of each step."""

    def __call__(self, net: nn.Module, x: Tensor, target: Tensor, **given: Any) -> Tensor:
        self.sizes: list[int] = []

        def counted(z: Tensor) -> Tensor:
            if torch.is_grad_enabled() and z.requires_grad:
                self.sizes.append(len(z))
            return net(z)

        counted.net = net  # type: ignore[attr-defined]  # where its modules are looked for
        return super().__call__(counted, x, target, **given)


def made(name: str) -> tuple[Defense, dict[str, Any]]:
    """The defense, and the record with its images in the batch's order."""
    record = RING[name]
    h = record["hparams"]
    ordered = torch.empty_like(of(record, "x_adv")).index_copy(0, record["order"], of(record, "x_adv"))
    attack = replayed(record, Watched, tau=h["tau"], noise=h["omega"])
    call = type(attack).__call__

    def with_noise(self: Any, *args: Any, **given: Any) -> Tensor:
        return call(self, *args, **{**given, "rng": Recorded(record)})

    type(attack).__call__ = with_noise
    net = recorded(record["base"])
    if name == "fat_trades":
        defense: Defense = TRADES(net, beta=h["beta"], attack=attack)
    elif name == "fat_mart":
        defense = MART(net, beta=h["beta"], attack=attack)
    else:
        defense = AT(net, attack=attack)
    return defense, {**record, "x_adv": ordered, "x_adv_f64": ordered}


@pytest.mark.parametrize("name", RECORDS)
def test_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    defense, record = made(name)
    if name == "fat_mart":  # the authors forward the adversarial batch first, which running statistics alone notice
        plain, x_adv = defense.logits, defense.generate(batch()).adv
        found: list[Tensor] = []

        def logits(x: Tensor) -> Tensor:
            if not found:
                found.extend([plain(x_adv), plain(batch().x)])
            return found.pop()

        monkeypatch.setattr(defense, "logits", logits)
    assert_same_step(defense, record)


@pytest.mark.parametrize("name", RECORDS)
def test_the_batch_shrinks(name: str) -> None:
    defense, record = made(name)
    defense.generate(batch())
    left = [len(active) for active in record["active"]]
    sizes = defense.attack.sizes  # before those that stop have left
    assert sizes[1:] == left[: len(sizes) - 1]
    assert len({*sizes}) > 1


X, Y = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


def test_with_tau_of_all_steps_it_is_pgd() -> None:
    given: dict[str, Any] = {"steps": 4, "start": "none"}
    friendly, plain = (
        attack(plain_net(), X, Y) for attack in (FriendlyPGD(Threat(), tau=4, **given), PGD(Threat(), **given))
    )
    assert torch.equal(friendly, plain)


@pytest.mark.parametrize("tau", [0, 1, 2])
def test_a_sample_stops_at_its_point_number_tau_plus_one_that_is_wrong(tau: int) -> None:
    """One by one, from PGD's own points."""
    net, steps = plain_net(), 6
    points = [PGD(Threat(eps=0.3), n, step_size=0.05, start="none")(net, X, Y) for n in range(steps + 1)]
    expected = []
    for i, y in enumerate(Y):
        wrong = [n for n in range(steps) if net(points[n][i : i + 1]).argmax() != y]
        expected.append(points[wrong[tau] if len(wrong) > tau else steps][i])
    found = FriendlyPGD(Threat(eps=0.3), steps, step_size=0.05, start="none", tau=tau)(net, X, Y)
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-6)
    assert 0 < sum(net(X).argmax(1) == Y) < len(X)


def test_the_noise_belongs_to_the_sample() -> None:
    attack = FriendlyPGD(Threat(eps=0.3), 3, tau=1, noise=0.05)
    defenses = [AT(plain_net(), attack=attack) for _ in range(2)]
    whole = defenses[0].generate(Batch(X, Y, torch.arange(8))).adv
    part = defenses[1].generate(Batch(X[3:], Y[3:], torch.arange(3, 8))).adv
    torch.testing.assert_close(part, whole[3:], rtol=0, atol=1e-6)
    assert ((whole - X).abs() <= 0.3 + 1e-6).all()


def test_tau_follows_the_epoch() -> None:
    seen = []

    class Seen(AT):
        def generate(self, batch: Batch) -> Any:
            seen.append(self.attack.tau)
            return super().generate(batch)

    defense = Seen(plain_net(), attack=FriendlyPGD(Threat(), steps=1))
    callback = AttackStrength(tau=PiecewiseConstant([0, 1, 2], milestones=[1, 3]))
    quiet_trainer(max_epochs=4, limit_train_batches=1, limit_val_batches=0, callbacks=[callback]).fit(defense, Few())
    assert seen == [0, 1, 1, 2]
    assert defense.attack.tau == 0
    with pytest.raises(TypeError, match="sets tau of FriendlyPGD, but the attack is PGD"):
        quiet_trainer(max_epochs=1, callbacks=[callback]).fit(AT(plain_net(), attack=PGD()), Few())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FriendlyPGD(tau=-1), "FriendlyPGD needs tau >= 0 and noise >= 0, got -1"),
        (lambda: FriendlyPGD(noise=-0.1), "got 0 and -0.1"),
        (lambda: FriendlyPGD()(norm_net(), X, Y, bn="batch"), "stops samples one by one.* set attack_bn to eval"),
        (lambda: FriendlyPGD()(plain_net(), X, X[:, 0, 0], objective=lambda a, b: a.sum(1)), "give `labels`, too"),
        (lambda: PGD()(plain_net(), X, Y, labels=Y), "PGD does not use labels"),
        (lambda: ST(plain_net(), attack=FriendlyPGD(start="normal")), "set the attack to PGD"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("method", [AT, TRADES, SCOREAT])
def test_soft_labels_reach_the_attack_whatever_the_method_compares_with(method: Any) -> None:
    defense = method(plain_net(), attack=FriendlyPGD(Threat(), steps=2, start="normal"))
    soft = Batch(X, torch.eye(3).to(X)[Y] * 0.8 + 0.2 / 3, torch.arange(len(X)))
    hard = Batch(X, Y, torch.arange(len(X)))
    moved = [defense.generate(batch).adv for batch in (soft, hard)]
    assert all(not torch.equal(x, X) for x in moved)
    if method is TRADES:  # its objective has no labels, only the stop
        assert torch.equal(*moved)
