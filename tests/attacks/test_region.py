"""A threat with a region: every attack changes its pixels alone, shows the net no others, and finds the best."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lightning_robust as lr
from lightning_robust.attacks import (
    CW,
    DDN,
    FAB,
    FMN,
    MSD,
    NFGSM,
    PDPGD,
    Collaborative,
    FriendlyPGD,
    SigmaZero,
    SparsePGD,
    SparseRS,
    TrainingAPGD,
    WorstOf,
)
from lightning_robust.attacks.minimum_norm import MinimumNorm
from lightning_robust.runtime.rng import SampleRNG
from tests.helpers.each_attack import EACH

REGION = (1, 4, 2, 6)
D = 2 * 3 * 4
EPS = {"linf": 0.1, "l2": 0.3, "l1": 0.8, "l0": 3}
MORE: dict[str, lr.Attack] = {
    "nfgsm": NFGSM(),
    "training-apgd": TrainingAPGD(steps=2),
    "sparse-pgd": SparsePGD(steps=2),
    "sparse-rs": SparseRS(queries=20),
    "sigma-zero": SigmaZero(steps=5),
    "fab with restarts": FAB(steps=2, restarts=2),
    "pgd from the clean image": lr.PGD(steps=2, start="none"),
    "friendly-pgd": FriendlyPGD(steps=3, noise=0.01),
    "collaborative": Collaborative(steps=2),
    "transfer": lr.Transfer(lr.PGD(steps=2), nn.Sequential(nn.Flatten(), nn.Linear(84, 3))),
}


def at(attack: lr.Attack, norm: Any) -> lr.Attack | None:
    try:
        return attack.with_threat(lr.Threat(norm, EPS[norm], region=REGION))
    except ValueError:
        return None  # it does not work in this norm


CASES = [
    pytest.param(given, norm, id=f"{name}-{norm}")
    for name, attack in {**EACH, **MORE}.items()
    for norm in EPS
    if (given := at(attack, norm)) is not None
]


def images(n: int = 12) -> Tensor:
    """Images [n 2 6 7] that are the same outside the region, so that any row tells what belongs there."""
    x = 0.2 + 0.6 * torch.rand(1, 2, 6, 7, generator=torch.Generator().manual_seed(0)).repeat(n, 1, 1, 1)
    inside = 0.2 + 0.6 * torch.rand(n, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    x[:, :, 1:4, 2:6] = inside
    return x


def outside(x: Tensor) -> Tensor:
    rest = x.clone()
    rest[..., 1:4, 2:6] = 0
    return rest


class Spy(nn.Module):
    """A net that refuses images with other pixels outside the region."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(84, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        assert (outside(x) - outside(images(1))).abs().max() < 1e-6
        return self.net(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_pixels_outside_stay_and_the_net_sees_no_others(attack: lr.Attack, norm: Any) -> None:
    x, net = images(), Spy()
    y = net(x).argmax(1)
    threat = attack.threat
    assert threat.region == REGION
    x_adv = attack(net, x, y, rng=SampleRNG(0, torch.arange(len(x))))
    assert torch.equal(outside(x_adv), outside(x))
    assert (threat.distance(x_adv, x) <= EPS[norm] * (1 + 1e-5) + 1e-6).all() or isinstance(attack, NFGSM)
    if isinstance(attack, MinimumNorm):
        assert torch.equal(outside(attack.nearest(net, x, y)), outside(x))
    elif not isinstance(attack, lr.Transfer):
        assert not torch.equal(x_adv, x) or attack.stages or attack.minimizes


def test_a_start_that_is_given_and_attacks_in_several_norms_stay_inside() -> None:
    x, net = images(), Spy()
    y = net(x).argmax(1)
    start = x + 0.05
    assert torch.equal(
        outside(lr.PGD(lr.Threat("linf", 0.1, region=REGION), steps=1)(net, x, y, start=start)), outside(x)
    )
    threats = {norm: lr.Threat(norm, EPS[norm], region=REGION) for norm in ("linf", "l2")}  # type: ignore[arg-type]
    parts: dict[str, Any] = {norm: lr.PGD(threat, steps=2) for norm, threat in threats.items()}
    for several in (MSD(parts), WorstOf(parts)):
        assert torch.equal(outside(several(net, x, y)), outside(x))


W = torch.randn(84, generator=torch.Generator().manual_seed(3))


def linear(x: Tensor, lead: float = 1.0) -> Any:
    """A linear net of two classes, of which the first leads by so much on average."""
    mean = (x.flatten(1) @ W).mean()
    return lambda z: torch.stack([z.flatten(1) @ W - mean + lead, torch.zeros(len(z), dtype=z.dtype)], 1)


def inside_weights() -> Tensor:
    return (W.view(1, 2, 6, 7) - outside(W.view(1, 2, 6, 7))).flatten()


DUAL = {"linf": lambda w: w.abs().sum(), "l2": lambda w: w.norm(), "l1": lambda w: w.abs().max()}


@pytest.mark.parametrize(
    ("attack", "norm", "share"),
    [
        (lr.PGD(steps=20), "linf", 0.999),
        (lr.PGD(steps=20), "l2", 0.97),
        (lr.PGD(steps=50), "l1", 0.95),
        (lr.APGD(steps=20), "linf", 0.999),
        (lr.APGD(steps=20), "l2", 0.97),
        (lr.APGD(steps=60), "l1", 0.95),
        (lr.Square(queries=1000), "linf", 0.9),
        (lr.Square(queries=1000), "l2", 0.4),
    ],
)
def test_the_greatest_loss_is_that_of_the_region(attack: lr.Attack, norm: Any, share: float) -> None:
    """The radius is so small that the box does not matter."""
    x, y = images(), torch.zeros(12, dtype=torch.int64)
    net = linear(x, lead=9.0)
    eps = 0.3 / float(DUAL[norm](inside_weights()))
    x_adv = attack.with_threat(lr.Threat(norm, eps, region=REGION))(net, x, y)
    fallen = net(x)[:, 0] - net(x_adv)[:, 0]
    assert (fallen <= 0.3 * (1 + 1e-4)).all()
    assert (fallen >= share * 0.3).all()


NEAREST = [FAB(steps=20), lr.DeepFool(steps=20), FMN(steps=200), DDN(steps=200), PDPGD(steps=200), CW(steps=200)]


@pytest.mark.parametrize("attack", NEAREST, ids=lambda attack: type(attack).__name__)
def test_the_nearest_example_is_that_of_the_region(attack: Any) -> None:
    x = images()
    net, y = linear(x), torch.zeros(12, dtype=torch.int64)
    right = net(x)[:, 0] > 0
    assert right.sum() > 3
    threat = lr.Threat("l2", 5.0, lower=-torch.inf, upper=torch.inf, region=REGION)
    if isinstance(attack, CW):
        threat = lr.Threat("l2", 5.0, lower=-0.5, upper=1.5, region=REGION)
    x_adv = attack.with_threat(threat).nearest(net, x, y)
    least = net(x)[:, 0] / inside_weights().norm()
    size = threat.distance(x_adv, x)
    assert (size[right] >= 0.999 * least[right]).all()
    assert (size[right] <= 1.05 * least[right] + 0.01).all()


def test_a_random_point_is_uniform_in_the_region() -> None:
    x, rng = torch.full((4000, 2, 6, 7), 0.5), SampleRNG(0, torch.arange(4000))
    for norm, eps in {"l2": 0.2, "l1": 0.5}.items():
        threat = lr.Threat(norm, eps, region=REGION)  # type: ignore[arg-type]
        point = threat.random(x, rng)
        assert torch.equal(outside(point), outside(x))
        volume = (threat.distance(point, x) / eps) ** D
        assert abs(float(volume.mean()) - 0.5) < 0.02
    assert lr.Threat("l0", 5, region=REGION).random(x, rng).sub(x).count_nonzero() <= 20000
    grad = torch.randn(1, 2, 6, 7)
    for norm in ("linf", "l2", "l1"):
        assert torch.equal(outside(lr.Threat(norm, 1, region=REGION).steepest(grad)), torch.zeros_like(grad))  # type: ignore[arg-type]


def test_it_is_written_and_read() -> None:
    threat = lr.Threat("linf", 0.5, region=[1, 4, 2, 6])  # type: ignore[arg-type]
    assert str(threat) == "linf 0.5 in 1:4 x 2:6"
    assert threat == lr.Threat.parse(str(threat)) == lr.Threat(**json.loads(json.dumps(vars(threat))))
    assert hash(threat) == hash(lr.Threat.parse(str(threat)))
    assert threat != lr.Threat("linf", 0.5)
    assert threat.without_box().region == REGION


@pytest.mark.parametrize("region", [(1, 1, 2, 6), (0, 3, 4, 2), (-1, 3, 0, 2), (1, 2, 3)])
def test_a_region_without_pixels_is_refused(region: Any) -> None:
    with pytest.raises(ValueError, match=r"A region is \[top, bottom, left, right\] with 0 <= top < bottom"):
        lr.Threat(region=region)


@pytest.mark.parametrize("shape", [(2, 3, 3), (1, 6, 5), (40,)])
def test_images_that_it_does_not_lie_in_are_refused(shape: tuple[int, ...]) -> None:
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    x = torch.rand(2, *shape)
    net(x)
    with pytest.raises(ValueError, match=r"in 1:4 x 2:6' does not lie in images of shape"):
        lr.PGD(lr.Threat(region=REGION))(net, x, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="A region is written like 'linf 1 in 4:12 x 0:8'"):
        lr.Threat.parse("linf 1 in the middle")


class Cheat(lr.PGD):
    def __call__(self, net: Any, x: Tensor, target: Tensor, **settings: Any) -> Tensor:
        return (x + 0.01).clamp(0, 1)


def test_an_evaluation_reports_the_region(tmp_path: Any) -> None:
    x, net = images(60), Spy().net
    y = net(x).argmax(1)
    threats = ["linf 0.05", "linf 0.05 in 1:4 x 2:6", "linf 0.02 in 1:4 x 2:6"]
    report = lr.evaluate(net, (x, y), threats, "pgd5", check_samples=8, out=tmp_path / "out", accelerator="cpu")
    whole, region, smaller = map(report.accuracy, threats)
    assert 0 <= whole < region < smaller <= 1
    told = json.loads((tmp_path / "out" / "linf-0.05-in-1-4-x-2-6-robustness.json").read_text())
    assert told["attacks"]["pgd5"]["attack"]["threat"]["region"] == [*REGION]
    assert torch.equal(report.robust(threats[0]) & ~report.robust(threats[1]), torch.zeros(60, dtype=torch.bool))
    with pytest.raises(ValueError, match="left its threat model, linf 8/255 in 1:4 x 2:6: it changed pixels"):
        lr.evaluate(net, (x, y), lr.Threat(region=REGION), {"cheat": Cheat()}, check_samples=0, accelerator="cpu")
