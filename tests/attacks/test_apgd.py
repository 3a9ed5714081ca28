import pytest
import torch
import torchattacks
from torch import nn

from lightning_robust.attacks import APGD, progress
from lightning_robust.attacks.apgd_ascent import Momentum, Sparse
from lightning_robust.attacks.functional import apgd
from lightning_robust.losses import cross_entropy, dlr
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat, per_image
from tests.helpers.toys import best_linear_gain, conv_net, linear_distance, linear_net
from tests.helpers.trained import EPS, held_out, trained_net

NORMS = ["linf", "l2", "l1"]


def images(shape=(8, 3, 8, 8), low=0.0, high=1.0):
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(2))


def keyed(n=8, seed=0):
    return SampleRNG(seed, torch.arange(n))


class TestLinearNet:
    x = images((12, 1, 4, 4), 0.4, 0.6)

    @pytest.mark.parametrize("k", [2, 3, pytest.param(5, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize("settings", [{}, {"loss": "dlr"}, {"targets": 9}], ids=["ce", "dlr", "targeted"])
    def test_breaks_exactly_what_can_be_broken(self, k, norm, settings):
        """With radii around each sample's closed-form distance: just below it withstands, just above it falls.

        With more than two classes a loss may climb towards another class than the nearest, and a step of l1 moves more
        than the one best pixel: there the gap is wider.
        """
        net = linear_net(torch.randn(k, 16, generator=torch.Generator().manual_seed(3)))
        net[1].bias.data -= net(self.x.mean(0, keepdim=True))[0].detach()  # boundaries run through the images
        x, y = self.x, net(self.x).argmax(1)
        distance = linear_distance(net, x, y, norm)
        assert distance.max() < {"linf": 0.1, "l2": 0.3, "l1": 0.35}[norm]
        wide = (1.05 if k == 2 else 2.0) * (1.5 if norm == "l1" else 1.0)
        for share, breaks in ((0.98, False), (wide, True)):
            eps = share * distance
            x_adv = APGD(Threat(norm, 1.0), **settings)(net, x, y, eps=eps, rng=keyed(len(x)))
            assert (Threat(norm).distance(x_adv, x) <= eps * (1 + 1e-4)).all()
            assert ((net(x_adv).argmax(1) != y) == breaks).all()

    @pytest.mark.parametrize("norm", ["linf", "l1"])
    def test_a_sample_that_stands_is_left_at_the_highest_point(self, norm):
        """Where the box is in the way: class 0's lead is too large to lose."""
        w = torch.randn(16, generator=torch.Generator().manual_seed(5))
        net, x = linear_net(torch.stack([0 * w, w]), torch.tensor([50.0, 0.0])), images((6, 1, 4, 4))
        eps = {"linf": 0.3, "l1": 2.5}[norm]
        x_adv = apgd(net, x, torch.zeros(6, dtype=torch.long), norm, eps, loss="margin")
        gain = (x_adv - x).flatten(1) @ w
        best = best_linear_gain(w, x.flatten(1), norm, torch.full((6,), eps))
        torch.testing.assert_close(gain, best, rtol={"linf": 1e-4, "l1": 0.05}[norm], atol=0)


def test_checkpoints_are_the_papers():
    """Section 3.1: p_0 = 0, p_1 = 0.22, p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06)."""
    expected, p, window = [], 0.22, 0.22
    while p < 1:
        expected.append(round(100 * p))
        window = max(window - 0.03, 0.06)
        p += window
    assert list(Momentum.checkpoints(100)) == expected == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(Sparse.checkpoints(100)) == list(range(4, 101, 4))
    assert Momentum.checkpoints(1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("settings", [{"restarts": 2}, {"targets": 2}], ids=["restarts", "targets"])
def test_a_sample_does_not_depend_on_its_batch(norm, settings):
    net, x = conv_net().double().eval(), images().double()
    y = net(x).argmax(1)
    attack = APGD(Threat(norm), steps=12, **settings)
    eps = {"linf": 0.03, "l2": 0.25, "l1": 1.5}[norm] * torch.linspace(0.1, 2, 8)
    whole = attack(net, x, y, eps=eps, rng=keyed())
    broken = net(whole).argmax(1) != y
    assert 0 < broken.sum() < 8
    for rows in (*torch.arange(8).split(3), torch.arange(7, -1, -1)):
        part = attack(net, x[rows], y[rows], eps=eps[rows], rng=keyed()[rows])
        torch.testing.assert_close(part, whole[rows], rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("settings", [{}, {"targets": 9}], ids=["ce", "targeted"])
@pytest.mark.slow
def test_as_strong_as_torchattacks(norm, settings):
    """Never weaker by more than one sample of 100, and of one mind on all but a few: their starts differ."""
    net, (x, y) = trained_net(), held_out()
    name = {"linf": "Linf"}.get(norm, norm.upper())
    theirs = (torchattacks.APGDT if settings else torchattacks.APGD)(net, norm=name, eps=EPS[norm], steps=50)
    theirs.set_device("cpu")
    stands = net(theirs(x, y)).argmax(1) == y
    x_adv = APGD(Threat(norm, EPS[norm]), steps=50, **settings)(net, x, y, rng=keyed(100))
    ours = net(x_adv).argmax(1) == y
    assert 10 < stands.sum() < 90
    assert ours.sum() <= stands.sum() + 1
    assert (ours != stands).sum() <= 4


def test_what_is_misclassified_already_is_returned_as_it_is():
    net = conv_net().eval()
    y = (net(images()).argmax(1) + torch.tensor([0, 1] * 4)) % 4
    x_adv = APGD(Threat(eps=0.1), steps=3)(net, images(), y)
    assert torch.equal(x_adv[1::2], images()[1::2])
    assert ((x_adv != images()).flatten(1).any(1) == torch.tensor([True, False] * 4)).all()


def test_samples_leave_as_soon_as_they_are_broken():
    net, y, sizes = conv_net().eval(), None, []
    y = net(images()).argmax(1)

    class Watched(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return net(x)

    attack = APGD(Threat(eps=0.06), steps=20)
    x_adv = attack(Watched(), images(), y, rng=keyed())
    assert len(sizes) == 22  # the clean images, the start, the steps
    assert sizes == sorted(sizes, reverse=True)
    stood = int((net(x_adv).argmax(1) == y).sum())
    assert 0 < stood <= sizes[-1] < 8
    passes = sum(sizes)
    assert passes < 22 * 8
    x_adv = attack(Watched(), images(), y, eps=1.0, rng=keyed())
    assert len(sizes) < 44  # all broken: it ends


@pytest.mark.parametrize(("k", "shape"), [(2, (1, 28, 28)), (3, (3, 17, 23)), (1000, (1, 8, 8))])
@pytest.mark.parametrize("norm", NORMS)
def test_any_number_of_classes_and_any_shape(k, shape, norm):
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], k)), images((3, *shape))
    y = net(x).argmax(1)
    for settings in ({"loss": "ce"}, {"loss": "dlr"}, {"targets": 9}):
        threat = Threat(norm, {"linf": 0.02, "l2": 0.1, "l1": 0.5}[norm])
        x_adv = APGD(threat, steps=3, **settings)(net, x, y)
        assert x_adv.isfinite().all()
        assert (threat.distance(x_adv, x) <= threat.eps * (1 + 1e-4)).all()


def test_the_box_is_the_threats():
    net, x = conv_net().eval(), images(low=-1.0)
    x_adv = APGD(Threat(eps=0.4, lower=-1.0, upper=1.0), steps=5)(net, x, net(x).argmax(1))
    assert x_adv.min() >= -1
    assert x_adv.min() < -0.99


def test_under_autocast_only_what_fp32_confirms_counts():
    """A net that errs in bf16 alone: no example is found. (Nobody is fooled: the net rounds its logits to a tie.)"""

    class Rounds(nn.Module):
        def forward(self, x):
            lead = (x.flatten(1).mean(1) * 1e-4)[:, None]
            return (
                torch.cat([100 + lead, 100 + 0 * lead], 1).to(x.dtype if not on() else torch.bfloat16).float() * sign()
            )

    on = lambda: torch.is_autocast_enabled("cpu")  # noqa: E731
    sign = lambda: -1.0 if on() else 1.0  # noqa: E731
    x, y = images((4, 1, 4, 4), 0.4, 0.6), torch.zeros(4, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        x_adv = APGD(Threat(eps=0.1), steps=5)(Rounds(), x, y)
    assert (Rounds()(x_adv).argmax(1) == 0).all()


def test_gradients_of_a_random_net_are_averaged():
    passes = []

    class Noisy(nn.Module):
        def forward(self, x):
            passes.append(torch.is_grad_enabled() and x.requires_grad)
            return net(x + 0.05 * torch.randn_like(x))

    net, x = conv_net().eval(), images()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        APGD(Threat(eps=1e-3), steps=4, eot=5)(Noisy(), x, net(x).argmax(1), objective=cross_entropy)
    assert sum(passes) == 4 * 5


def test_an_objective_given_is_climbed():
    net, x = conv_net().eval(), images()
    y = net(x).argmax(1)
    attack = APGD(Threat(eps=1e-3), steps=10)
    for objective, other in ((cross_entropy, dlr), (dlr, cross_entropy)):
        high = attack(net, x, y, objective=objective, rng=keyed())
        low = attack(net, x, y, objective=other, rng=keyed())
        assert objective(net(high), y).sum() > objective(net(low), y).sum()


def test_whoever_watches_sees_one_count_of_all_runs():
    net, x = conv_net().eval(), images()
    seen = []
    with progress.listen(lambda done, total: seen.append((done, total))):
        APGD(Threat(eps=1e-4), steps=2, targets=3, restarts=2)(net, x, net(x).argmax(1))
    assert seen == [(k, 18) for k in range(1, 19)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"targets": 0}, "targets must be >= 1, got 0"),
        ({"restarts": 0}, "restarts must be >= 1"),
        ({"eot": 0}, "eot must be >= 1"),
        ({"rho": 1.0}, "rho must lie between 0 and 1"),
        ({"loss": "hinge"}, "Unknown loss 'hinge': choose one of ce, margin, dlr"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        APGD(**settings)


def test_reference_logits_are_refused():
    with pytest.raises(ValueError, match="APGD needs labels"):
        APGD()(conv_net(), images(), torch.zeros(8, 4), objective=lambda logits, target: logits.sum(1))
    with pytest.raises(ValueError, match="must be probabilities"):
        APGD()(conv_net(), images(), torch.zeros(8, 4))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_sample_that_its_start_breaks_does_not_change_the_others(norm):
    """It leaves before the first step, which is a full one for all the others."""
    net, x = conv_net().double().eval(), images().double()
    y = net(x).argmax(1)
    eps = {"linf": 1.0, "l2": 12.0}[norm] * torch.tensor([1.0] * 4 + [0.01] * 4)
    attack = APGD(Threat(norm), steps=1)
    whole = attack(net, x, y, eps=eps, rng=keyed())
    assert (net(attack._start(x, per_image(eps, x), keyed().fork(0))).argmax(1) != y).any()
    for rows in torch.arange(8).split(1):
        part = attack(net, x[rows], y[rows], eps=eps[rows], rng=keyed()[rows])
        torch.testing.assert_close(part, whole[rows], rtol=0, atol=1e-12)


def half_blind(finite):
    """sqrt with an infinite slope at 0 in the branch not taken: a NaN gradient, or the same function without."""

    def root(x):
        return torch.where(x > 0.2, (x - 0.2 if not finite else (x - 0.2).clamp_min(1e-6)).sqrt(), 0.0)

    linear = linear_net(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)))
    return lambda x: linear(root(x))


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_that_are_not_finite_do_not_protect(norm):
    x = images((30, 1, 4, 4))
    y = half_blind(True)(x).argmax(1)
    attack = APGD(Threat(norm, {"linf": 0.05, "l2": 0.25, "l1": 0.6}[norm]), steps=20)
    stands = {
        finite: half_blind(finite)(attack(half_blind(finite), x, y, rng=keyed(30))).argmax(1) == y
        for finite in (True, False)
    }
    assert 0 < stands[True].sum() < 28
    assert abs(int(stands[True].sum()) - int(stands[False].sum())) <= 3


def test_an_infinite_logit_does_not_protect():
    def net(x):
        lead = x.flatten(1).mean(1) - 0.5
        return torch.stack([-100 * lead, torch.where(lead > 0.02, torch.inf, lead)], 1)

    x = images((10, 1, 4, 4), 0.45, 0.5)
    x_adv = APGD(Threat(eps=0.1), steps=10)(net, x, torch.zeros(10, dtype=torch.long))
    assert (net(x_adv).argmax(1) == 1).all()
