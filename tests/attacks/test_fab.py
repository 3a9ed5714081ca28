import math

import pytest
import torch
import torchattacks
from torch import nn

from lightning_robust.attacks.base import watching
from lightning_robust.attacks.fab import FAB, fab
from lightning_robust.attacks.minimum_norm import minimum_norms
from lightning_robust.draws import Draws
from lightning_robust.threat import Threat
from tests.toys import conv_net, least_shift_size, linear_net

NORMS = ["linf", "l2", "l1"]
DUAL = {"linf": 1, "l2": 2, "l1": math.inf}
MODES = [{}, {"targets": 9}]


def images(shape=(8, 3, 8, 8), low=0.0, high=1.0):
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(2))


def keyed(n=8, seed=0):
    return Draws(seed, torch.arange(n))


@pytest.fixture(scope="module")
def net():
    return conv_net().eval()


@pytest.fixture(scope="module")
def y(net):
    return net(images()).argmax(1)


class TestLinearNet:
    """There the nearest example is known: on the boundary to the class that is nearest in the dual norm."""

    def classifier(self, k, dtype=torch.float32):
        weight = torch.randn(k, 12, generator=torch.Generator().manual_seed(5))
        return linear_net(weight.to(dtype))

    def gaps(self, net, x, y):
        """The normals [b k-1 d] and gaps [b k-1] of the boundaries to the other classes."""
        weight, logits = net[1].weight.detach(), net(x).detach()
        others = torch.tensor([[j for j in range(len(weight)) if j != i] for i in y.tolist()])
        return weight[others] - weight[y][:, None], logits.gather(1, y[:, None]) - logits.gather(1, others)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("k", [2, 3, 6])
    @pytest.mark.parametrize("norm", NORMS)
    def test_far_from_the_box(self, norm, k, mode):
        net, x = self.classifier(k), images((8, 3, 2, 2), 0.48, 0.52)
        net[1].bias.data = -net(images((1, 3, 2, 2), 0.5, 0.5)).detach()[0]  # boundaries meet in the midst of the box
        y = net(x).argmax(1)
        w, gap = self.gaps(net, x, y)
        best = (gap / w.norm(p=DUAL[norm], dim=2)).amin(1)
        size = minimum_norms(FAB(Threat(norm), steps=20, **mode), net, x, y)
        torch.testing.assert_close(size, best, rtol=0.02, atol=1e-6)
        assert (size > (1 - 1e-3) * best - 1e-6).all()

    @pytest.mark.parametrize(("k", "mode"), [(2, {}), (2, {"targets": 9}), (4, {"targets": 9})])
    @pytest.mark.parametrize("norm", NORMS)
    def test_with_the_box_in_the_way(self, norm, k, mode):
        """Class 0 by a large bias: there is far to go, and a third of the pixels stand at a wall."""
        net, x = self.classifier(k), images((6, 3, 2, 2), -0.6, 0.6).clamp(-0.4, 0.4)
        net[1].bias.data[0] = 3.0
        y = net(x).argmax(1)
        w, gap = self.gaps(net, x, y)
        planes = [[(w[i, j], float(gap[i, j]), x[i].flatten()) for j in range(k - 1)] for i in range(6)]
        best = torch.tensor([[least_shift_size(*p, norm, -0.4, 0.4) for p in row] for row in planes]).amin(1)
        size = minimum_norms(FAB(Threat(norm, 0.1, -0.4, 0.4), steps=30, **mode), net, x, y)
        torch.testing.assert_close(size, best, rtol=0.02, atol=1e-6)
        free = (gap / w.norm(p=DUAL[norm], dim=2)).amin(1)
        assert (best > 1.05 * free).sum() >= 3  # the box mattered

    def test_in_double_precision(self):
        net, x = self.classifier(3, torch.float64), images((8, 3, 2, 2)).double()
        y = net(x).argmax(1)
        size = minimum_norms(FAB(Threat("l2")), net, x, y)
        assert size.dtype == torch.float64
        assert ((size > 0) & (size < 10)).all()

    def test_where_no_image_is_misclassified_the_clean_one_comes_back(self):
        net, x, y = self.classifier(3), images((4, 3, 2, 2)), torch.zeros(4, dtype=torch.long)
        net[1].bias.data[0] = 100.0
        assert torch.equal(FAB().nearest(net, x, y), x)
        assert (minimum_norms(FAB(), net, x, y) == math.inf).all()


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


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("norm", NORMS)
def test_called_as_an_attack_it_gives_examples_within_the_radius_or_the_clean_image(net, y, norm, mode):
    x, threat = images(), Threat(norm, 0.3, lower=-0.2, upper=1.1)
    size = minimum_norms(FAB(threat, steps=10, **mode), net, x, y)
    eps = size * torch.tensor([1.1, 0.9] * 4)
    x_adv = FAB(threat, steps=10, **mode)(net, x, y, eps=eps)
    assert x_adv.min() >= -0.2
    assert x_adv.max() <= 1.1
    assert (threat.distance(x_adv, x) <= eps).all()
    assert torch.equal(net(x_adv).argmax(1) != y, torch.tensor([True, False] * 4))
    assert torch.equal(x_adv[1::2], x[1::2])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("norm", NORMS)
def test_an_example_does_not_depend_on_the_rest_of_the_batch(net, norm, mode):
    x, y, attack = images(), torch.arange(8) % 4, FAB(Threat(norm, 0.3), steps=4, restarts=2, **mode)
    whole = attack.nearest(net, x, y, draws=keyed(seed=4), enough=torch.linspace(0, 0.5, 8))
    for part in ([5], [7, 0, 3, 2]):
        draws = Draws(4, torch.tensor(part))
        alone = attack.nearest(net, x[part], y[part], draws=draws, enough=torch.linspace(0, 0.5, 8)[part])
        torch.testing.assert_close(alone, whole[part], atol=1e-4, rtol=0)


def test_restarts_begin_elsewhere_and_never_hurt():
    """The slope at the clean image leads to the boundary 0.25 away; left of 0.45 it leads to that 0.2 away."""

    def valley(z):
        t = z[:, 0, 0, 0]
        return torch.stack([0 * t, torch.maximum(t - 0.75, 0.6 - 2 * t)], 1)

    x, y = torch.full((8, 1, 2, 2), 0.5), torch.zeros(8, dtype=torch.long)
    once, thrice, more = (minimum_norms(FAB(Threat("linf", 0.3), 20, n), valley, x, y, keyed()) for n in (1, 3, 9))
    torch.testing.assert_close(once, torch.full((8,), 0.25), rtol=0.01, atol=0)
    assert (thrice <= once).all()
    assert (thrice < 0.24).any()
    torch.testing.assert_close(more, torch.full((8,), 0.2), rtol=0.01, atol=0)


def test_samples_leave_when_they_are_done(net, y):
    """The net errs on the first three from the outset; the next have an example within what is enough at once."""
    seen, y = [], torch.where(torch.arange(8) < 3, (y + 1) % 4, y)
    enough = torch.tensor([0.0] * 3 + [1.0] * 3 + [0.0] * 2)
    nearest = FAB(steps=8, targets=2).nearest(lambda z: seen.append(len(z)) or net(z), images(), y, enough=enough)
    assert torch.equal(nearest[:3], images()[:3])
    assert seen[:2] == [8, 5]
    assert seen[-16:] == [2] * 16  # the second target
    none = FAB(steps=8).nearest(lambda z: seen.append(-len(z)) or net(z), images(), y, enough=9.0)
    assert min(seen[-2:]) < 0  # it ends when nobody is left
    assert len(seen) < 8 + 33
    assert (net(none).argmax(1) != y).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "k"), [((2, 1, 28, 28), 1000), ((3, 3, 17, 23), 2), ((1, 3, 17, 23), 5)])
def test_any_number_of_classes_and_shape_of_images(shape, k, mode):
    x = images(shape)
    net = linear_net(torch.randn(k, x[0].numel(), generator=torch.Generator().manual_seed(1)))
    assert (minimum_norms(FAB(Threat("l2"), steps=5, **mode), net, x, net(x).argmax(1)) < 1).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("mode", MODES)
def test_a_net_without_gradients_is_left_in_peace(norm, mode):
    def flat(z):
        return torch.tensor([1.0, 0.0, 0.0]).expand(len(z), 3) + 0 * z.flatten(1)[:, :3]

    x = images()
    assert torch.equal(FAB(Threat(norm), steps=3, **mode).nearest(flat, x, torch.zeros(8, dtype=torch.long)), x)


def test_under_autocast_an_example_is_one_in_single_precision_too(net, y):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x_adv = FAB(steps=10).nearest(net, images(), y)
    assert x_adv.dtype == torch.float32
    assert (net(x_adv).argmax(1) != y).all()


def test_listeners_hear_every_step(net, y):
    heard = []
    with watching(lambda done, total: heard.append((done, total))):
        FAB(steps=2, targets=2).nearest(net, images(), y)
    assert heard == [(1, 2), (2, 2)] * 2


def test_the_plain_function_is_the_class(net, y):
    ours = fab(net, images(), y, "l2", "1/2", steps=5, targets=2)
    assert torch.equal(ours, FAB(Threat("l2", 0.5), steps=5, targets=2)(net, images(), y))
    assert not torch.equal(ours, images())


def test_it_leaves_the_net_and_the_images_as_they_were():
    net, x = conv_net(), images()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.inference_mode():
        FAB(steps=2)(net, x, torch.zeros(8, dtype=torch.uint8))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(m.training for m in net.modules() if isinstance(m, nn.Module))
    assert torch.equal(x, images())


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
