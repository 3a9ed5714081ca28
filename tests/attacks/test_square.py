import math

import pytest
import torch
import torchattacks
from scipy.stats import chisquare
from torch import nn

from lightning_robust.attacks import progress
from lightning_robust.attacks.square import Square, square, twin_peaks
from lightning_robust.losses import cross_entropy, margin
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from tests.helpers.toys import best_linear_gain, conv_net, linear_distance, linear_net
from tests.helpers.trained import EPS, held_out, trained_net

NORMS = ["linf", "l2", "l1"]
ZEROS = torch.zeros(8, dtype=torch.long)


def images(shape=(8, 3, 8, 8), low=0.0, high=1.0):
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(2))


def keyed(n=8, seed=0):
    return SampleRNG(seed, torch.arange(n))


class Watched(nn.Module):
    """Keeps what the net is asked. On its own it says class 0, with less lead at every query or (reluctant) more."""

    def __init__(self, net=None, reluctant=False):
        super().__init__()
        self.net, self.reluctant, self.seen = net, reluctant, []

    def forward(self, x):
        assert not torch.is_grad_enabled()
        self.seen.append(x)
        if self.net is not None:
            return self.net(x)
        lead = 1 + len(self.seen) if self.reluctant else 1 / (1 + len(self.seen))
        return torch.tensor([lead, 0.0]).to(x).expand(len(x), 2)


class TestLinearNet:
    def test_linf_breaks_exactly_what_can_be_broken(self):
        """With radii around each sample's distance to the boundary: just below it withstands, just above it falls."""
        x, net = images((40, 1, 4, 4), 0.4, 0.6), linear_net(torch.randn(2, 16, dtype=torch.float64))
        x = x.double()
        net[1].bias.data -= net(x.mean(0, keepdim=True))[0].detach()
        y = net(x).argmax(1)
        distance = linear_distance(net, x, y, "linf")
        assert distance.max() < 0.1
        for share, breaks in ((1 - 1e-9, False), (1 + 1e-9, True)):
            x_adv = Square(Threat("linf"), queries=600)(net, x, y, eps=share * distance, rng=keyed(40))
            assert ((net(x_adv).argmax(1) != y) == breaks).all()

    @pytest.mark.parametrize(
        ("norm", "eps", "share"), [("linf", 0.3, 1 - 1e-5), ("l2", 0.25, 0.5), ("l1", 0.5, 0.5), ("l1", 3.0, 0.5)]
    )
    def test_a_sample_that_stands_is_left_near_the_highest_point(self, norm, eps, share):
        """For linf and l1 the box is in the way. The windows of l2 and l1, 3 pixels wide, cannot spend all at best."""
        w, box = torch.randn(36, generator=torch.Generator().manual_seed(5)), (0.4, 0.6) if norm == "l2" else (0, 1)
        net, x = linear_net(torch.stack([0 * w, w]), torch.tensor([50.0, 0.0])), images((8, 1, 6, 6), *box)
        best = best_linear_gain(w, x.flatten(1), norm, torch.full((8,), eps))
        x_adv = square(net, x, ZEROS, norm, eps, queries=1000 if norm == "linf" else 150)
        gain = (x_adv - x).flatten(1) @ w
        assert (gain > share * best).all()
        assert (gain < best * (1 + 1e-5)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("rescale", [False, True])
def test_at_least_as_strong_as_torchattacks(norm, rescale):
    """Theirs never touches the last row and column, nor does its linf avoid windows that change nothing."""
    net, (x, y) = trained_net(), held_out()
    theirs = torchattacks.Square(
        net, {"linf": "Linf", "l2": "L2"}[norm], EPS[norm], n_queries=99, resc_schedule=rescale
    )
    stands = net(theirs(x, y)).argmax(1) == y
    attack = Square(Threat(norm, EPS[norm]), queries=100, rescale=rescale)
    ours = net(attack(net, x, y, rng=keyed(100))).argmax(1) == y
    assert 10 < stands.sum() < (net(x).argmax(1) == y).sum()  # theirs breaks some, and not all
    assert ours.sum() <= stands.sum() + 1


@pytest.mark.parametrize("norm", NORMS)
def test_a_sample_does_not_depend_on_its_batch(norm):
    net, x = conv_net().double().eval(), images().double()
    y = net(x).argmax(1)
    attack = Square(Threat(norm, {"linf": 0.12, "l2": 1.5, "l1": 4.0}[norm]), queries=20, restarts=2)
    whole = attack(net, x, y, rng=keyed())
    broken = net(whole).argmax(1) != y
    assert 0 < broken.sum() < 8
    for rows in (torch.tensor([5]), *torch.arange(8).split(3), torch.arange(7, -1, -1)):
        part = attack(net, x[rows], y[rows], rng=keyed()[rows])
        assert torch.equal(net(part).argmax(1) != y[rows], broken[rows])
        torch.testing.assert_close(part, whole[rows], rtol=0, atol=1e-12)


def test_windows_and_signs_differ_between_samples():
    net = Watched()
    Square(queries=3)(net, images((1, 1, 32, 32), 0.4, 0.6).expand(8, -1, -1, -1), ZEROS, rng=keyed())
    assert all(len(seen.unique(dim=0)) == 8 for seen in net.seen[1:])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("k", "shape"),
    [(2, (1, 28, 28)), (3, (3, 17, 23)), (3, (2, 23, 17)), (1000, (1, 8, 8)), (2, (3, 4, 4)), (2, (3, 1, 1))],
)
def test_any_number_of_classes_any_shape_any_box(norm, k, shape):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), k)).double(), images((5, *shape), -1, 2).double()
    top, threat = torch.linspace(0, 1, 5), Threat(norm, 3.0, -1.0, 2.0)
    eps = top * {"linf": 0.02, "l2": 0.3, "l1": 1.5}[norm]
    y, x[4] = net(x).argmax(1), x[4].clamp(0.9, 1.1)
    net = Watched(net)
    x_adv = Square(threat, queries=30, restarts=2)(net, x, y, eps=eps)
    assert x_adv.dtype == torch.float64
    assert torch.equal(x_adv[0], x[0])  # radius 0
    for asked in (x_adv, *(seen for seen in net.seen if len(seen) == 5)):
        assert asked.isfinite().all()
        assert asked.min() >= -1
        assert asked.max() <= 2
        assert (threat.distance(asked, x) <= eps + 1e-6).all()
    assert (margin(net.net(x_adv), y) >= margin(net.net(x), y)).all()


@pytest.mark.parametrize(("norm", "eps"), [("l2", 50.0), ("l1", 500.0)])
def test_opposite_peaks_cancel_without_harm(norm, eps):
    """On images one pixel high a window is a single pixel, whose new perturbation may be minus the old."""
    net = Watched()
    Square(Threat(norm, eps, -1e3, 1e3), 50)(net, images((8, 1, 1, 9)), ZEROS, rng=keyed())
    assert all(seen.isfinite().all() for seen in net.seen)


def test_images_of_224_pixels():
    net, x = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 1000)), images((2, 3, 224, 224))
    y = net(x).argmax(1)
    for norm, eps in {"linf": 0.03, "l2": 3.0, "l1": 50.0}.items():
        x_adv = square(net, x, y, norm, eps, queries=3)
        assert (Threat(norm).distance(x_adv, x) <= eps * (1 + 1e-4)).all()
        assert (margin(net(x_adv), y) > margin(net(x), y)).all()


class TestWindows:
    """What the queries change, seen by a net on which every change is an improvement, or none is."""

    @staticmethod
    def asked(norm, shape, reluctant, queries, eps=0.1, grey=0.5, start=None, **settings):
        """The perturbations tried [queries b ...]."""
        net, x = Watched(reluctant=reluctant), torch.full((8, *shape), grey)
        Square(Threat(norm, eps), queries, **settings)(net, x, ZEROS, start=start, rng=keyed())
        return torch.stack(net.seen[1:]) - grey

    def test_stripes(self):
        start = self.asked("linf", (3, 6, 7), True, 1)[0]
        torch.testing.assert_close(start.abs(), torch.full_like(start, 0.1))
        assert (start == start[:, :, :1]).all()
        assert 0.3 < (start[:, :, 0] > 0).float().mean() < 0.7
        assert len(start[:, :, 0].flatten(0, 1).unique(dim=0)) > 15

    @pytest.mark.parametrize(("norm", "eps", "size"), [("l2", 1.0, 75**-0.5), ("l1", 75.0, 1.0)])
    def test_tiles(self, norm, eps, size):
        """On 32 x 33 pixels and 3 channels, 5 x 5 tiles of 6 x 6 that share the radius; 1 or 2 pixels are left over."""
        start = self.asked(norm, (3, 32, 33), True, 1, eps)[0]
        assert not start[:, :, [0, 31]].any()
        assert not start[..., [0, 31, 32]].any()
        found = start[..., 1:31, 1:31].unfold(2, 6, 6).unfold(3, 6, 6)[..., None, :, :]
        one, other = size * twin_peaks(6, norm, torch.float32, start.device).view(2, 6, 6)
        error = (found - torch.stack([one, -one, other, -other])).abs().amax((-2, -1))
        assert error.amin(-1).max() < 1e-6
        assert (error.argmin(-1).flatten().bincount(minlength=4) > 100).all()  # of 600, both ways and of either sign
        lying = error[..., :2].amin(-1) < 1e-6
        assert (lying == lying[:, :1]).all()  # one way for all channels

    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 17, 23)])
    @pytest.mark.parametrize("rescale", [False, True])
    def test_they_shrink_as_in_torchattacks(self, shape, rescale):
        """From a start that no query improves on, each differs in one square."""
        queries = 620
        asked = self.asked("linf", shape, True, queries, rescale=rescale)
        changed = (asked[1:] != asked[:1]).any(2)
        h, w = changed.any(3).sum(2).amax(1), changed.any(2).sum(2).amax(1)
        theirs = torchattacks.Square(nn.Linear(1, 1), n_queries=queries, resc_schedule=rescale)
        sides = [max(round(math.sqrt(theirs.p_selection(k) * shape[1] * shape[2])), 1) for k in range(queries - 1)]
        expected = torch.tensor(sides).clamp_max(min(shape[1:]))
        assert (h <= expected).all()
        assert (w <= expected).all()
        assert (torch.maximum(h, w) == expected).float().mean() > 0.9  # stripes may hide a window's edges

    def test_linf_never_asks_what_it_knows(self):
        for reluctant in (False, True):
            asked = self.asked("linf", (1, 6, 6), reluctant, 400)
            before = asked[:1] if reluctant else asked[:-1]
            assert (asked[1:] != before).flatten(2).any(2).all()

    def test_every_pixel_is_reached_as_often(self):
        """With single pixels: the reference leaves the last row and column out."""
        asked = self.asked("linf", (1, 5, 4), True, 1000, p_init=0.02)
        count = (asked[1:] != asked[:1]).sum((0, 1, 2))
        assert count.sum() == 8 * 999
        assert chisquare(count.flatten()).pvalue > 0.01

    @pytest.mark.parametrize("norm", ["l2", "l1"])
    def test_the_radius_is_spent(self, norm):
        """What a window loses another gains; what the walls take away, as half of all on black, is spent again."""
        middle, black = (self.asked(norm, (3, 16, 16), False, 80, eps=0.4, grey=grey) for grey in (0.5, 0.0))
        middle, black = (asked.flatten(2).norm(p=int(norm[1]), dim=2) for asked in (middle, black))
        torch.testing.assert_close(middle, torch.full_like(middle, 0.4), rtol=1e-4, atol=0)
        assert black.min() > 0.2
        assert black[1:].max() <= 0.4 + 1e-5

    def test_l2_empties_one_window_and_fills_another(self):
        begin = Threat("l2", 0.1).random(torch.full((8, 3, 15, 15), 0.5), keyed())
        asked = self.asked("l2", (3, 15, 15), True, 60, p_init=0.01, start=begin)
        start, moved = asked[:1], asked[1:]
        emptied, changed = (moved == 0).flatten(2).sum(2), ((moved - start).abs() > 1e-6).flatten(2).sum(2)
        assert (emptied <= 27).all()
        assert (changed <= 54).all()
        assert emptied.float().mean() > 23  # else they overlap
        assert changed.float().mean() > 46

    @pytest.mark.parametrize("norm", ["l2", "l1"])
    def test_the_first_peaks_on_a_clean_image(self, norm):
        """Both ways and of either sign."""
        asked = self.asked(norm, (1, 15, 15), True, 60, p_init=0.01, start=torch.full((8, 1, 15, 15), 0.5))
        patches = asked[1:, :, 0].unfold(2, 3, 1).unfold(3, 3, 1)
        patches = patches[(patches != 0).all(-1).all(-1)]
        assert len(patches) == 59 * 8
        one, other = 0.1 * twin_peaks(3, norm, torch.float32, patches.device).view(2, 3, 3)
        error = (patches[:, None] - torch.stack([one, -one, other, -other])).abs().amax((-2, -1))
        assert error.amin(1).max() < 1e-6
        assert (error.argmin(1).bincount(minlength=4) > 80).all()

    @pytest.mark.parametrize("side", range(2, 16))
    def test_twin_peaks_of_l2_are_those_of_torchattacks(self, side):
        theirs = torchattacks.Square(nn.Linear(1, 1), norm="L2").eta(side)
        ours = twin_peaks(side, "l2", torch.float32, theirs.device).view(2, side, side)
        assert (ours - theirs).abs().amax((1, 2)).min() < 1e-6

    def test_twin_peaks_of_l1_by_hand(self):
        upright, beside = twin_peaks(3, "l1", torch.float64, torch.device("cpu")).view(2, 3, 3)
        top, bottom = torch.tensor([[1.0, 17, 1]]) / 38, -torch.tensor([[1.0, 1, 1], [1, 17, 1]]) / 44
        torch.testing.assert_close(upright, torch.cat([top, bottom]).double())
        assert torch.equal(beside, upright.T)
        assert twin_peaks(1, "l1", torch.float32, torch.device("cpu")).tolist() == [[-1], [-1]]


def test_a_sample_leaves_as_soon_as_it_is_broken():
    net, (x, y) = Watched(trained_net()), held_out(40)
    attack = Square(Threat("linf", 0.25), queries=150)
    x_adv = attack(net, x, y, rng=keyed(40))
    sizes, wrong = [len(seen) for seen in net.seen], [int((net.net(x).argmax(1) != y).sum())]
    assert len(sizes) == 151
    assert sizes[1] == 40 - wrong[0]
    assert sizes == sorted(sizes, reverse=True)
    stands = net.net(x_adv).argmax(1) == y
    assert 0 < stands.sum() <= sizes[-1] < 30
    assert torch.equal(x_adv[net.net(x).argmax(1) != y], x[net.net(x).argmax(1) != y])
    net.seen.clear()
    attack(net, x, y, eps=1.0, rng=keyed(40))
    assert len(net.seen) < 151  # all broken: it ends


def test_restarts_are_the_best_of_independent_runs():
    net, x = linear_net(torch.randn(2, 64), torch.tensor([90.0, 0.0])), images((8, 1, 8, 8))
    runs = [Square(queries=20, restarts=n)(net, x, ZEROS, rng=keyed()) for n in (1, 2, 3, 4)]
    values = torch.stack([margin(net(run), ZEROS) for run in runs])
    assert (values[1:] >= values[:-1]).all()
    assert (values[1:] > values[:-1]).any(1).all()
    alone = Square(queries=20)(net, x, ZEROS, rng=keyed().fork(7))
    assert not torch.equal(alone, runs[0])
    seen = []
    with progress.listen(lambda done, total: seen.append((done, total))):
        Square(queries=5, restarts=2)(net, x, ZEROS)
    assert seen == [(k, 10) for k in range(1, 11)]


def test_a_start_given_is_the_first_restarts():
    net, x = Watched(reluctant=True), images((8, 1, 8, 8))
    start = Threat("l2", 0.5).random(x, keyed())
    Square(Threat("l2", 0.5), queries=2, restarts=2)(net, x, ZEROS, start=start, rng=keyed())
    given = start.clone()
    assert torch.equal(net.seen[1], given)
    assert not torch.equal(net.seen[3], given)
    net = Watched()
    improved = Square(Threat("l2", 0.5), queries=20)(net, x, ZEROS, start=start)
    assert not torch.equal(improved, given)
    assert torch.equal(start, given)
    assert torch.equal(net.seen[1], given)


def test_an_objective_given_is_climbed():
    net, x = conv_net().eval(), images()
    y, attack = net(x).argmax(1), Square(Threat("linf", 1e-3), queries=60)
    found = {f: attack(net, x, y, objective=f, rng=keyed()) for f in (cross_entropy, margin)}
    for mine, other in ((cross_entropy, margin), (margin, cross_entropy)):
        assert mine(net(found[mine]), y).sum() > mine(net(found[other]), y).sum()
    assert torch.equal(attack(net, x, y, rng=keyed()), found[margin])


def test_a_success_counts_whatever_its_objective():
    net, (x, y) = trained_net(), held_out(20)
    fell = net(x).argmax(1) != y
    x_adv = Square(Threat("linf", 0.4), queries=40)(net, x, y, objective=lambda z, t: -margin(z, t))
    assert ((net(x_adv).argmax(1) != y) & ~fell).any()


def test_under_autocast_only_what_fp32_confirms_counts():
    net, (x, y), sizes = trained_net(), held_out(20), []

    def contrary(z):
        """Errs on all, but in half precision alone."""
        sizes.append(len(z))
        return (-1 if torch.is_autocast_enabled("cpu") else 1) * net(z)

    with torch.autocast("cpu", torch.bfloat16):
        Square(Threat("linf", 1e-4), queries=5)(contrary, x, y)
        x_adv = Square(Threat("linf", 0.25), queries=60)(net, x, y)
    right = int((net(x).argmax(1) == y).sum())
    assert sizes == [20] * 2 + [right] * 10  # every pass once more in fp32
    assert (net(x_adv).argmax(1) == y).sum() < right


def test_the_global_seed_decides_when_no_draws_are_given():
    def crafted(seed):
        torch.manual_seed(seed)
        return square(Watched(), images(), ZEROS, queries=3)

    assert torch.equal(crafted(1), crafted(1))
    assert not torch.equal(crafted(1), crafted(2))


def test_the_plain_function_is_the_class():
    torch.manual_seed(3)
    ours = square(Watched(), images(), ZEROS, "l1", "1/2", queries=4)
    torch.manual_seed(3)
    assert torch.equal(ours, Square(Threat("l1", 0.5), queries=4)(Watched(), images(), ZEROS))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 0}, "queries must be >= 1, got 0"),
        ({"p_init": 0.0}, r"p_init must be in \(0, 1\], got 0.0"),
        ({"p_init": 1.5}, r"p_init must be in \(0, 1\], got 1.5"),
        ({"restarts": 0}, "restarts must be >= 1, got 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Square(**settings)
