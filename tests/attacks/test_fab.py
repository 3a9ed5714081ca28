import pytest
import torch
import torchattacks

from lightning_robust.attacks import progress
from lightning_robust.attacks.fab import FAB
from lightning_robust.attacks.minimum_norm import minimum_norms
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from tests.helpers.toys import conv_net, least_shift_size, linear_boundaries, linear_distance, linear_net

NORMS = ["linf", "l2", "l1"]


def images(shape=(8, 3, 8, 8), low=0.0, high=1.0):
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def net():
    return conv_net().eval()


@pytest.fixture(scope="module")
def y(net):
    return net(images()).argmax(1)


@pytest.mark.parametrize(("k", "targets"), [(2, None), (2, 9), (4, 9)])
@pytest.mark.parametrize("norm", NORMS)
def test_the_nearest_boundary_of_a_linear_net_where_the_box_is_in_the_way(norm, k, targets):
    """Class 0 by a large bias: there is far to go, and a third of the pixels stand at a wall."""
    net = linear_net(torch.randn(k, 12, generator=torch.Generator().manual_seed(5)))
    net[1].bias.data[0] = 3.0
    x = images((6, 3, 2, 2), -0.6, 0.6).clamp(-0.4, 0.4)
    y = net(x).argmax(1)
    w, gap = linear_boundaries(net, x, y)
    planes = [[(w[i, j], float(gap[i, j]), x[i].flatten()) for j in range(k - 1)] for i in range(6)]
    best = torch.tensor([[least_shift_size(*p, norm, -0.4, 0.4) for p in row] for row in planes]).amin(1)
    size = minimum_norms(FAB(Threat(norm, 0.1, -0.4, 0.4), steps=30, targets=targets), net, x, y)
    torch.testing.assert_close(size, best, rtol=0.02, atol=1e-6)
    assert (best > 1.05 * linear_distance(net, x, y, norm)).sum() >= 3  # the box mattered


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targeted", [False, True])
def test_it_finds_what_torchattacks_does(net, y, norm, targeted):
    theirs = torchattacks.FAB(net, {"linf": "Linf"}.get(norm, norm.upper()), 1e3, 15, multi_targeted=targeted)
    theirs.set_device("cpu")
    run = theirs.attack_single_run_targeted if targeted else theirs.attack_single_run
    sizes = []
    for theirs.target_class in (2, 3, 4) if targeted else (None,):
        x_adv = run(images(), y)
        assert (net(x_adv).argmax(1) != y).all()
        sizes.append(Threat(norm).distance(x_adv, images()))
    ours = minimum_norms(FAB(Threat(norm), steps=15, targets=3 if targeted else None), net, images(), y)
    torch.testing.assert_close(ours, torch.stack(sizes).amin(0), rtol=1e-3, atol=0)


def test_restarts_begin_elsewhere_and_never_hurt():
    """The slope at the clean image leads to the boundary 0.25 away; left of 0.45 it leads to that 0.2 away."""

    def valley(z):
        t = z[:, 0, 0, 0]
        return torch.stack([0 * t, torch.maximum(t - 0.75, 0.6 - 2 * t)], 1)

    def found(restarts):
        return minimum_norms(FAB(Threat("linf", 0.3), 20, restarts), valley, x, y, SampleRNG(0, torch.arange(8)))

    x, y = torch.full((8, 1, 2, 2), 0.5), torch.zeros(8, dtype=torch.long)
    once, thrice, more = found(1), found(3), found(9)
    torch.testing.assert_close(once, torch.full((8,), 0.25), rtol=0.01, atol=0)
    assert (thrice <= once).all()
    assert (thrice < 0.24).any()
    torch.testing.assert_close(more, torch.full((8,), 0.2), rtol=0.01, atol=0)


def test_the_samples_left_go_on_to_the_next_target(net, y):
    seen, enough = [], torch.tensor([9.0] * 6 + [0.0] * 2)
    FAB(steps=8, targets=2).nearest(lambda z: seen.append(len(z)) or net(z), images(), y, enough=enough)
    assert seen[:2] == [8, 8]
    assert seen[-17:] == [2] * 17  # two passes a step


def test_listeners_hear_every_step(net, y):
    heard = []
    with progress.listen(lambda done, total: heard.append((done, total))):
        FAB(steps=2, targets=2).nearest(net, images(), y)
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"restarts": 0}, "restarts must be >= 1, got 0"),
        ({"targets": 0}, "targets must be >= 1, got 0"),
        ({"candidates": 0}, "candidates must be >= 1, got 0"),
        ({"alpha_max": 1.5}, r"alpha_max must be in \[0, 1\], got 1.5"),
        ({"eta": 0.9}, "eta must be >= 1, got 0.9"),
        ({"beta": 1.0}, r"beta must be in \(0, 1\), got 1.0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FAB(**settings)
