"""Attacks that hold several others: which example they give, at which radii, and what they refuse."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from lightning_robust.attacks import MSD, PGD, Collaborative, OneOf, SparsePGD, TrainingAPGD, WorstOf
from lightning_robust.attacks.one_of import drawn
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.defenses import AT, TRADES
from lightning_robust.losses import cross_entropy
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from lightning_robust.types import Batch
from tests.helpers.few import plain_net

LINF, L2, L1 = Threat("linf", 0.1), Threat("l2", 0.5), Threat("l1", 2.0)
X = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(40) % 3


def parts(**settings: Any) -> dict[str, PGD]:
    return {threat.norm: PGD(threat, steps=3, **settings) for threat in (LINF, L2, L1)}


def net() -> nn.Module:
    return plain_net(dtype=torch.float64).eval()


def rng() -> SampleRNG:
    return SampleRNG(0, torch.arange(len(X)))


def test_the_worst_of_several_is_the_highest_loss_of_each_sample() -> None:
    model, held = net(), parts(start="none")
    alone = torch.stack([attack(model, X, Y) for attack in held.values()])
    losses = torch.stack([cross_entropy(model(x_adv), Y) for x_adv in alone])
    worst = losses.argmax(0)
    assert len(set(worst.tolist())) > 1
    assert torch.equal(WorstOf(held)(model, X, Y), alone[worst, torch.arange(len(X))])


def test_each_attack_draws_its_own_numbers() -> None:
    model = net()
    both = {"a": PGD(LINF, steps=0), "b": PGD(LINF, steps=0)}
    starts = [OneOf(both, weights)(model, X, Y, rng=rng()) for weights in ([1, 0], [0, 1])]
    assert torch.isclose(*starts).double().mean() < 0.05


def test_one_of_several_is_drawn_for_the_whole_batch_by_its_weight() -> None:
    model, held = net(), parts()
    attack = OneOf(held, weights=[1.0, 0.0, 3.0])
    counts: Counter[int] = Counter()
    for seed in range(400):
        number = drawn([1.0, 0.0, 3.0], SampleRNG(seed, torch.arange(4)).shared_uniform())
        counts[number] += 1
        if seed < 5:
            few = SampleRNG(seed, torch.arange(4))
            expected = attack.parts[number](model, X[:4], Y[:4], rng=few.fork(number))
            assert torch.equal(attack(model, X[:4], Y[:4], rng=few), expected)
    assert counts[1] == 0
    assert counts[0] == pytest.approx(100, abs=4 * math.sqrt(400 * 0.25 * 0.75))


def test_radii_keep_their_proportion() -> None:
    attack = WorstOf(parts(step_size=0.05))
    half = attack.with_eps(0.05)
    assert [threat.eps for threat in half.threats] == pytest.approx([0.05, 0.25, 1.0])
    assert [part.step_size for part in half.parts] == pytest.approx([0.025] * 3)  # type: ignore[attr-defined]
    assert [threat.eps for threat in attack.threats] == [0.1, 0.5, 2.0]
    called = OneOf(parts(start="none"), [0, 1, 0])(net(), X, Y, eps=0.05)
    assert (called - X).flatten(1).norm(dim=1).max() <= 0.25 * (1 + 1e-9)
    assert {part.threat for part in attack.with_threat(L2).parts} == {L2}


def test_of_one_attack_alone_all_are_that_attack() -> None:
    """MSD too, where PGD's last point is its highest; a linear net."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    alone = PGD(L2, steps=4, start="none")
    expected = alone(model, X, Y)
    for kind in (WorstOf, OneOf, MSD):
        torch.testing.assert_close(kind({"only": alone})(model, X, Y), expected, rtol=0, atol=1e-12)


def test_msd_ends_at_its_highest_point_and_in_one_of_the_balls() -> None:
    model, attack = (
        net(),
        MSD({"linf": PGD(LINF, steps=8), "l2": PGD(L2, steps=8), "l1": SparsePGD(L1, steps=8, most=5)}),
    )
    x_adv = attack(model, X, Y, rng=rng())
    inside = torch.stack([threat.distance(x_adv, X) <= threat.eps * (1 + 1e-9) for threat in attack.threats])
    assert inside.any(0).all()
    plain = [part(model, X, Y, rng=rng()) for part in attack.parts]
    loss = cross_entropy(model(x_adv), Y).mean()
    assert loss > max(cross_entropy(model(z), Y).mean() for z in plain) - 0.02
    assert (cross_entropy(model(x_adv), Y) > cross_entropy(model(X), Y)).all()


def test_sparse_steps_move_k_values_of_room_by_their_share() -> None:
    x = torch.tensor([[[[0.5, 0.99, 0.0, 0.4, 0.6]]]], dtype=torch.float64)
    grad = torch.tensor([[[[3.0, 4.0, 2.0, -5.0, 0.5]]]], dtype=torch.float64)
    eps, step = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 0.2)
    two = SparsePGD(L1, fewest=2, most=2)
    moved = two.move(x, x, grad, eps, step, rng()) - x
    expected = torch.tensor([0.1, 0.0, 0.0, -0.1, 0.0], dtype=torch.float64)
    torch.testing.assert_close(moved.flatten(), expected)  # 0.99 has no room for 0.1
    three = SparsePGD(L1, fewest=3, most=3, walls=True).move(x, x, grad, eps, step, rng()) - x
    assert torch.nonzero(three.flatten()).flatten().tolist() == [0, 3, 4]  # 0 stays at the wall
    three = SparsePGD(L1, fewest=3, most=3).move(x, x, grad, eps, step, rng()) - x
    assert torch.nonzero(three.flatten()).flatten().tolist() == [0, 2, 3]


def test_the_number_of_values_is_drawn_uniformly_for_each_step() -> None:
    attack, counts = SparsePGD(L1, fewest=2, most=4, step_size=0.3), Counter[int]()
    x, grad = torch.full((1, 1, 1, 9), 0.5), torch.arange(1.0, 10).view(1, 1, 1, 9)
    one = torch.ones(1, 1, 1, 1)
    for seed in range(300):
        moved = attack.move(x, x, grad, 2 * one, 0.3 * one, SampleRNG(seed, torch.arange(1)))
        counts[int((moved != x).sum())] += 1
    assert set(counts) == {2, 3, 4}
    assert all(count == pytest.approx(100, abs=4 * math.sqrt(300 * 2 / 9)) for count in counts.values())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: WorstOf({}), "WorstOf needs one attack or more, got none"),
        (lambda: WorstOf({"a": PGD(), "b": PGD(Threat(lower=-1.0))}), r"in one box, got \[\(-1.0, 1.0\), \(0.0, 1.0\)"),
        (lambda: OneOf(parts(), [1.0]), r"3 weights >= 0, one an attack and not all 0, got \[1.0\]"),
        (lambda: OneOf(parts(), [0, 0, 0]), "not all 0"),
        (lambda: MSD({"a": TrainingAPGD(LINF)}), "plain PGD, but 'a' is not"),  # type: ignore[dict-item]
        (lambda: MSD({"a": PGD(LINF, steps=2), "b": PGD(L2)}), r"as many of each; got \[2, 10\]"),
        (lambda: SparsePGD(fewest=3, most=2), "1 <= fewest <= most, got 3 and 2"),
        (lambda: SparsePGD(LINF), "SparsePGD works in l1 alone"),
        (lambda: AT(plain_net(), attack=WorstOf({"a": PGD(), "b": Collaborative()})), "leads towards the labels"),
        (lambda: TRADES(plain_net(), attack=WorstOf(parts(start="none"))), "no gradient at the clean image"),
        (lambda: TRADES(plain_net(), attack=MSD(parts())), "no gradient at the clean image"),
        (lambda: RobustEvaluation({"union": WorstOf(parts())}), "its examples leave the radius"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()


def test_trades_takes_them_with_its_own_objective() -> None:
    for attack in (WorstOf(parts(start="normal")), OneOf(parts(start="normal")), MSD(parts(), start="normal")):
        defense = TRADES(plain_net(dtype=torch.float64), attack=attack)
        assert not torch.isclose(defense.generate(Batch(X, Y)).adv, X).all()
