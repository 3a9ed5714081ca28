"""Examples crafted on a surrogate: those that the attack makes there, whatever the attacked net is."""

import pytest
import torch
from torch import nn

import lightning_robust as lr
from lightning_robust.evaluation.description import describe
from lightning_robust.runtime.rng import SampleRNG

X = torch.rand(24, 1, 3, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 3))


@pytest.mark.parametrize(
    "attack", [lr.PGD(lr.Threat("linf", 0.1), steps=5), lr.Square(lr.Threat("l2", 0.5), queries=20)]
)
def test_it_is_the_attack_on_the_surrogate(attack: lr.Attack) -> None:
    net, surrogate = linear(0), linear(1)
    rng = SampleRNG(0, torch.arange(24))
    got = lr.Transfer(attack, surrogate)(net, X, Y, rng=rng)
    assert torch.equal(got, attack(surrogate, X, Y, rng=rng))
    assert not torch.equal(got, attack(net, X, Y, rng=rng))


def test_a_net_that_passes_no_gradient_can_be_attacked() -> None:
    surrogate = linear(1)
    y = surrogate(X).argmax(1)
    transfer = lr.Transfer(lr.PGD(lr.Threat("linf", 0.3), steps=20), surrogate)
    report = lr.evaluate(
        Rounded(surrogate), (X, y), "linf 0.3", {"transfer": transfer}, check_samples=0, accelerator="cpu"
    )
    assert report.accuracy("linf 0.3") < 0.5 < report.accuracy()


def test_an_attack_that_stops_where_the_surrogate_errs_leaves_what_it_misclassifies() -> None:
    """So its examples transfer less."""
    net, surrogate, threat = linear(0), linear(1), lr.Threat("linf", 0.1)
    wrong = surrogate(X).argmax(1) != Y
    assert 5 < wrong.sum() < 20
    for attack in (lr.PGD(threat, steps=5), lr.AutoAttack(threat, "rapid"), lr.FAB(threat, steps=5)):
        moved = (lr.Transfer(attack, surrogate)(net, X, Y) != X).flatten(1).any(1)
        assert torch.equal(moved[wrong], torch.full_like(moved[wrong], isinstance(attack, lr.PGD)))
        assert moved[~wrong].any()


class Rounded(nn.Module):
    """A net that no gradient passes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net((x * 255).round() / 255)


def test_what_transfers_is_held_against_the_gradients_of_the_net() -> None:
    surrogate = linear(1)
    attacks = {"pgd": lr.PGD(steps=5, start="none"), "transfer": lr.Transfer(lr.PGD(steps=20), surrogate)}
    data = X, surrogate(X).argmax(1)
    report = lr.evaluate(Rounded(surrogate), data, "linf 0.1", attacks, check_samples=16, accelerator="cpu")
    checks = {check["name"]: check for check in report.evaluations["linf 0.1"].report["checks"]}
    assert checks["black_box"]["status"] == "fail"
    assert checks["black_box"]["sentence"].startswith("Transfer, which uses no gradients of the net, broke")


def test_the_threat_reaches_the_attack() -> None:
    transfer = lr.Transfer(lr.PGD(steps=1), linear(1)).with_threat(lr.Threat("l2", 0.25))
    assert transfer.threat == transfer.attack.threat == lr.Threat("l2", 0.25)
    with pytest.raises(ValueError, match="works in"):
        lr.Transfer(lr.DeepFool(lr.Threat("l2", 1.0)), linear(1)).with_threat(lr.Threat("l1", 1.0))


def test_a_report_tells_surrogates_apart() -> None:
    told = [describe(lr.Transfer(lr.PGD(), linear(seed)))["surrogate"] for seed in (1, 2, 1)]
    assert told[0] == told[2] != told[1]


def test_another_surrogate_is_another_evaluation() -> None:
    from lightning_robust.evaluation.fingerprint import fingerprint

    net = linear(0)
    names = {fingerprint(net, {"attack": lr.Transfer(lr.PGD(), linear(seed))}) for seed in (1, 2)}
    assert len(names) == 2
