"""What every attack that looks for the nearest example keeps to."""

import math

import pytest
import torch

from lightning_robust.attacks.cw import CW, cw
from lightning_robust.attacks.deepfool import DeepFool, deepfool
from lightning_robust.attacks.fab import FAB, fab
from lightning_robust.attacks.minimum_norm import minimum_norms
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from tests.helpers.toys import conv_net, linear_distance, linear_net

ATTACKS = {
    **{f"fab {norm}": lambda box, norm=norm: FAB(Threat(norm, 0.3, *box), steps=10) for norm in ("linf", "l2", "l1")},
    **{
        f"fab-t {norm}": lambda box, norm=norm: FAB(Threat(norm, 0.3, *box), steps=5, restarts=2, targets=9)
        for norm in ("linf", "l2", "l1")
    },
    **{f"deepfool {norm}": lambda box, norm=norm: DeepFool(Threat(norm, 0.3, *box)) for norm in ("linf", "l2")},
    "cw": lambda box: CW(Threat("l2", 0.3, *box), steps=20, lr=0.1, search_steps=3, initial_c=1.0),
}


def images(shape=(8, 3, 8, 8), low=0.0, high=1.0):
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(2))


@pytest.fixture(params=ATTACKS)
def attack(request):
    return ATTACKS[request.param]((0.0, 1.0))


@pytest.fixture(params=ATTACKS)
def attack_in_a_wide_box(request):
    return ATTACKS[request.param]((-0.2, 1.1))


@pytest.fixture(scope="module")
def net():
    return conv_net().eval()


@pytest.fixture(scope="module")
def y(net):
    return net(images()).argmax(1)


def flat(z):
    """A net of three classes without slope."""
    return torch.tensor([2.0, 0.0, 0.0]).expand(len(z), 3) + 0 * z.flatten(1)[:, :3]


@pytest.mark.parametrize(("k", "dtype"), [(2, torch.float32), (3, torch.float64), (6, torch.float32)])
@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "cw"])
def test_the_nearest_boundary_of_a_linear_net(name, k, dtype):
    weight = torch.randn(k, 12, generator=torch.Generator().manual_seed(5), dtype=dtype)
    net = linear_net(weight, -weight.sum(1) / 2)  # the boundaries meet in the middle of the box
    x = images((8, 3, 2, 2), 0.4, 0.6).to(dtype)
    y, attack = net(x).argmax(1), ATTACKS[name]((0.0, 1.0))
    size, best = minimum_norms(attack, net, x, y), linear_distance(net, x, y, attack.threat.norm)
    assert size.dtype == dtype
    torch.testing.assert_close(size, best, rtol=0.02, atol=2e-4)
    assert (size > (1 - 1e-3) * best - 1e-6).all()


def test_called_it_gives_examples_within_the_radius_or_the_clean_image(net, y, attack_in_a_wide_box):
    x, attack = images(), attack_in_a_wide_box
    rng = SampleRNG(0, torch.arange(8))
    eps = minimum_norms(attack, net, x, y, rng) * torch.tensor([1.1, 0.9] * 4)
    x_adv = attack(net, x, y, eps=eps, rng=rng)
    assert x_adv.min() >= -0.2
    assert x_adv.max() <= 1.1
    assert (attack.threat.distance(x_adv, x) <= eps).all()
    assert torch.equal(net(x_adv).argmax(1) != y, torch.tensor([True, False] * 4))
    assert torch.equal(x_adv[1::2], x[1::2])
    radius = float(eps.median())
    assert torch.equal(attack(net, x, y, eps=radius, rng=rng) != x, attack(net, x, y, eps=0 * eps + radius) != x)


def test_an_example_does_not_depend_on_the_rest_of_the_batch(net, attack):
    x, y, enough = images(), torch.arange(8) % 4, torch.linspace(0, 0.5, 8)
    whole = attack.nearest(net, x, y, rng=SampleRNG(4, torch.arange(8)), enough=enough)
    for part in ([5], [7, 0, 3, 2]):
        alone = attack.nearest(net, x[part], y[part], rng=SampleRNG(4, torch.tensor(part)), enough=enough[part])
        torch.testing.assert_close(alone, whole[part], atol=1e-4, rtol=0)


def test_samples_leave_when_they_are_done(net, y, attack):
    """The net errs on the first three from the outset; for the next three the first example is enough."""
    seen, y = [], torch.where(torch.arange(8) < 3, (y + 1) % 4, y)
    enough = torch.tensor([0.0] * 3 + [99.0] * 3 + [0.0] * 2)
    x_adv = attack.nearest(lambda z: seen.append(len(z)) or net(z), images(), y, enough=enough)
    assert torch.equal(x_adv[:3], images()[:3])
    assert seen[0] == 8
    assert seen[1] == (8 if getattr(attack, "targets", None) else 5)  # other targets take the place of the first three
    assert seen[-1] <= 2 * (getattr(attack, "targets", None) or 1)
    assert (net(x_adv).argmax(1) != y).all()
    seen.clear()
    attack.nearest(lambda z: seen.append(len(z)) or net(z), images()[:6], y[:6], enough=enough[:6])
    assert len(seen) < 21  # it ends when nobody is left


def test_where_there_is_no_example_the_clean_image_comes_back(attack):
    """First a net without slope, then one of which no image in the box is misclassified."""
    x, y = images(), torch.zeros(8, dtype=torch.long)
    sure = linear_net(torch.randn(3, 192, generator=torch.Generator().manual_seed(1)))
    sure[1].bias.data[0] = 1000.0
    for net in (flat, sure):
        assert torch.equal(attack.nearest(net, x, y), x)
        assert (minimum_norms(attack, net, x, y) == math.inf).all()


@pytest.mark.parametrize(("shape", "k"), [((2, 1, 28, 28), 1000), ((3, 3, 17, 23), 2), ((1, 3, 17, 23), 5)])
@pytest.mark.slow
def test_any_number_of_classes_and_shape_of_images(attack, shape, k):
    x = images(shape)
    net = linear_net(torch.randn(k, x[0].numel(), generator=torch.Generator().manual_seed(1)))
    size = minimum_norms(attack, net, x, net(x).argmax(1))
    assert ((size > 0) & (size < math.inf)).all()


def test_under_autocast_an_example_is_one_in_single_precision_too(net, y, attack):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x_adv = attack.nearest(net, images(), y)
    assert x_adv.dtype == torch.float32
    found = (x_adv != images()).flatten(1).any(1)
    assert found.sum() >= (7 if attack.threat.norm == "l1" else 8)  # in bf16 not every slope leads across
    assert torch.equal(net(x_adv).argmax(1) != y, found)


def test_the_net_and_the_images_are_left_as_they_were(attack):
    net, x = conv_net(), images()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.inference_mode():
        attack(net, x, torch.zeros(8, dtype=torch.uint8))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert torch.equal(x, images())


@pytest.mark.parametrize(
    ("function", "cls", "norm", "settings"),
    [
        (fab, FAB, "l1", {"steps": 5, "targets": 2}),
        (deepfool, DeepFool, "linf", {"steps": 20}),
        (cw, CW, None, {"steps": 9, "lr": 0.1}),
    ],
)
def test_the_plain_function_is_the_class(net, y, function, cls, norm, settings):
    eps = "2/2" if norm == "linf" else "3/2"  # not larger than the box
    ours = function(net, images(), y, **({"norm": norm} if norm else {}), eps=eps, **settings)
    assert torch.equal(ours, cls(Threat(norm or "l2", eps), **settings)(net, images(), y))
    assert not torch.equal(ours, images())
