import eagerpy
import foolbox
import pytest
import torch
import torch.nn.functional as F
import torchattacks
from scipy.stats import chisquare
from torch import nn

from lightning_robust.attacks import PGD
from lightning_robust.attacks.functional import pgd
from lightning_robust.attacks.pgd import TARGETS, other_classes
from lightning_robust.losses import cross_entropy, kl_divergence, margin
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from tests.helpers.ddp import process_group, run_ddp
from tests.helpers.toys import best_linear_gain, conv_net, linear_net

NORMS = ["linf", "l2", "l1"]
EPS = {"linf": 0.1, "l2": 0.8, "l1": 6.0}
Y = torch.arange(8) % 4


def images(shape=(8, 3, 8, 8), low=0.0, high=1.0):
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(2))


def keyed(n=8, seed=0):
    return SampleRNG(seed, torch.arange(n))


@pytest.fixture(scope="module")
def net():
    return conv_net().eval()


class TestLinearNet:
    """On a linear net the best perturbation is known; the box is in the way of `wide` images, not of `narrow` ones."""

    w = torch.randn(16, generator=torch.Generator().manual_seed(5))
    narrow, wide = images((4, 1, 4, 4), 0.4, 0.6), images((4, 1, 4, 4)).round(decimals=1)

    def gain(self, x, x_adv):
        return (x_adv - x).flatten(1) @ self.w

    @pytest.mark.parametrize("classes", [[0.0, 1.0], [0.0, 1.0, 0.4, -0.3]])
    @pytest.mark.parametrize(
        ("norm", "box", "eps"),
        [
            ("linf", "narrow", 0.2),
            ("linf", "wide", 0.3),
            ("l2", "narrow", 0.25),
            ("l1", "narrow", 0.35),
            ("l1", "wide", 0.5),
            ("l1", "wide", 3.0),
        ],
    )
    def test_reaches_the_optimum(self, classes, norm, box, eps):
        """Class j's logit is classes[j] * (w.x + 15) / 10, so both losses of label 0 grow with w.x alone."""
        k, x = torch.tensor(classes)[:, None], getattr(self, box)
        net, y = linear_net(0.1 * k * self.w, 1.5 * k[:, 0]), torch.zeros(4, dtype=torch.long)
        best = best_linear_gain(self.w, x.flatten(1), norm, torch.full((4,), eps))
        attack = PGD(Threat(norm, eps), steps=100, step_size=eps / 20, start="none" if norm == "l1" else "uniform")
        for objective in (cross_entropy, margin):
            x_adv = attack(net, x, y, objective=objective)
            torch.testing.assert_close(self.gain(x, x_adv), best, rtol=0.01, atol=0)

    @pytest.mark.parametrize("start", ["none", "uniform"])
    @pytest.mark.parametrize("eps", [12.0, 40.0])
    def test_l1_does_not_stall_at_the_walls(self, start, eps):
        """Dozens of pixels reach the box's wall; the steps must then go to others."""
        w, x = torch.randn(3072, generator=torch.Generator().manual_seed(5)), images((4, 3, 32, 32))
        net, y = linear_net(torch.stack([0 * w, 0.1 * w])), torch.zeros(4, dtype=torch.long)
        x_adv = PGD(Threat("l1", eps), steps=40, start=start)(net, x, y)
        best = best_linear_gain(w, x.flatten(1), "l1", torch.full((4,), eps))
        assert ((x_adv - x).flatten(1) @ w > 0.94 * best).all()

    @pytest.mark.parametrize("norm", NORMS)
    def test_every_sample_may_have_its_own_radius_and_step(self, norm):
        net, y = linear_net(torch.stack([0 * self.w, self.w])), torch.zeros(4, dtype=torch.long)
        eps = torch.tensor([0.0, 0.05, 0.1, 0.3])
        best = best_linear_gain(self.w, self.narrow.flatten(1), norm, eps)
        x_adv = PGD(Threat(norm, 1.0), steps=30)(net, self.narrow, y, eps=eps)  # steps of 2.5 eps / 30
        torch.testing.assert_close(self.gain(self.narrow, x_adv), best, rtol=0.02, atol=1e-6)
        step = torch.tensor([0.3, 0.0, 0.01, 0.02])
        one = PGD(Threat(norm, 1.0), steps=1, start="none")(net, self.narrow, y, step_size=step)
        best = best_linear_gain(self.w, self.narrow.flatten(1), norm, step)
        torch.testing.assert_close(self.gain(self.narrow, one), best)
        torch.testing.assert_close(Threat(norm).distance(one, self.narrow), step)

    def test_the_default_step_is_two_and_a_half_radii_over_the_steps(self):
        net, y = linear_net(torch.stack([0 * self.w, self.w])), torch.zeros(4, dtype=torch.long)
        attack = PGD(Threat("linf", 0.1), steps=10, start="none")
        moved = [attack(net, self.narrow, y), PGD(attack.threat, 10, 0.025, "none")(net, self.narrow, y)]
        assert torch.equal(*moved)
        one = PGD(attack.threat, steps=1, start="none", step_size="1/50")(net, self.narrow, y)
        torch.testing.assert_close((one - self.narrow).flatten(1), (0.02 * self.w.sign()).expand(4, 16))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("settings", [{}, {"start": "normal"}, {"momentum": 0.9}, {"restarts": 2}, {"targeted": True}])
def test_examples_stay_in_ball_and_box(net, norm, settings):
    x, eps = images(), torch.linspace(0, EPS[norm], 8)
    x_adv = PGD(Threat(norm), steps=5, step_size=EPS[norm], **settings)(net, x, Y, eps=eps)
    assert (Threat(norm).distance(x_adv, x) <= eps + 1e-5).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert torch.equal(x_adv[0], x[0])  # radius 0
    assert (Threat(norm).distance(x_adv, x)[1:] > 0.1 * eps[1:]).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
class TestOtherLibraries:
    eps, step = 0.3, 0.07

    def ours(self, norm, **settings):
        return PGD(Threat(norm, self.eps), steps=6, step_size=self.step, start="none", **settings)

    def test_torchattacks(self, net, norm):
        their_pgd = torchattacks.PGD if norm == "linf" else torchattacks.PGDL2
        theirs = their_pgd(net, self.eps, self.step, 6, random_start=False)
        ours = self.ours(norm)(net, images(), Y)
        torch.testing.assert_close(ours, theirs(images(), Y), atol=1e-5, rtol=0)
        assert Threat(norm).distance(ours, images()).min() > 0.2

    @pytest.mark.parametrize("targeted", [False, True])
    def test_foolbox_from_the_same_start(self, net, norm, targeted):
        x, base = images(), foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
        start = Threat(norm, self.eps).random(x, keyed())

        class Theirs(base):
            def get_random_start(self, x0, epsilon):
                return eagerpy.astensor(start)

        attack = Theirs(abs_stepsize=self.step, steps=6, random_start=True)
        wanted = (Y + 1) % 4
        aim = foolbox.criteria.TargetedMisclassification(wanted) if targeted else foolbox.criteria.Misclassification(Y)
        theirs = attack.run(foolbox.PyTorchModel(net, (0, 1), device="cpu"), x, aim, epsilon=self.eps)
        ours = self.ours(norm, targeted=targeted)(net, x, wanted if targeted else Y, start=start)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


class TestSettingsWithNames:
    """FGSM, R-FGSM and MI-FGSM are settings of PGD, as the docstring says."""

    eps = 0.1

    def test_fgsm(self, net):
        ours = PGD(Threat("linf", self.eps), steps=1, step_size=self.eps, start="none")
        torch.testing.assert_close(ours(net, images(), Y), torchattacks.FGSM(net, self.eps)(images(), Y))

    def test_r_fgsm(self, net):
        """torchattacks draws its start from torch's generator, so drawing it once more gives the same."""
        torch.manual_seed(3)
        theirs = torchattacks.FFGSM(net, self.eps, alpha=1.25 * self.eps)(images(), Y)
        torch.manual_seed(3)
        start = (images() + torch.randn_like(images()).uniform_(-self.eps, self.eps)).clamp(0, 1)
        ours = PGD(Threat("linf", self.eps), steps=1, step_size=1.25 * self.eps)
        torch.testing.assert_close(ours(net, images(), Y, start=start), theirs)

    @pytest.mark.parametrize("decay", [0.5, 1.0])
    def test_mi_fgsm(self, net, decay):
        """On a net so confident that the gradient grows by orders of magnitude from step to step."""
        sharp, x, y = nn.Sequential(net, linear_net(30 * torch.eye(4))).eval(), images(), net(images()).argmax(1)
        theirs = torchattacks.MIFGSM(sharp, self.eps, alpha=0.03, steps=6, decay=decay)(x, y)
        attack = PGD(Threat("linf", self.eps), steps=6, step_size=0.03, start="none")
        ours = PGD(attack.threat, 6, 0.03, "none", momentum=decay)(sharp, x, y)
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
        assert not torch.allclose(ours, attack(sharp, x, y), atol=1e-3)  # momentum made a difference


def test_targeted_is_descent_towards_the_target(net):
    x, wanted = images(), (Y + 1) % 4
    settings = {"threat": Threat("l2", 1.0), "steps": 10}
    towards = PGD(**settings, targeted=True)(net, x, wanted, rng=keyed())
    before, after = (F.cross_entropy(net(z), wanted, reduction="none") for z in (x, towards))
    assert (after < before).all()
    minus = PGD(**settings)(net, x, wanted, objective=lambda z, y: -cross_entropy(z, y), rng=keyed())
    assert torch.equal(towards, minus)
    unchanged = PGD(**settings, targeted=True, restarts=3)(net, x, net(towards).argmax(1), rng=keyed())
    assert (net(unchanged).argmax(1) == net(towards).argmax(1)).all()


class TestRandomTargets:
    def test_every_other_class_is_as_likely(self):
        y = torch.arange(4).repeat(1000)
        drawn = other_classes(y, 4, SampleRNG(0, torch.arange(4000)))
        counts = torch.bincount(4 * y + drawn, minlength=16).view(4, 4)
        assert (counts.diagonal() == 0).all()
        assert chisquare(counts[~torch.eye(4, dtype=torch.bool)]).pvalue > 0.01
        assert torch.equal(drawn[[7]], other_classes(y[[7]], 4, SampleRNG(0, torch.tensor([7]))))  # the sample's own

    def test_it_is_the_targeted_attack_on_the_classes_drawn(self, net):
        settings = {"threat": Threat("linf", 0.1), "steps": 5, "start": "none", "targeted": True}
        x_adv = PGD(**settings, random_targets=4)(net, images(), Y, rng=keyed())
        wanted = other_classes(Y, 4, keyed().fork(TARGETS))
        assert torch.equal(x_adv, PGD(**settings)(net, images(), wanted))
        again = PGD(**settings, random_targets=4)(net, images(), Y, rng=keyed().fork(1))
        assert not torch.equal(x_adv, again)

    @pytest.mark.parametrize("settings", [{"random_targets": 1, "targeted": True}, {"random_targets": 4}])
    def test_settings_that_make_no_sense(self, settings):
        with pytest.raises(ValueError, match="random_targets needs two classes or more and targeted=True"):
            PGD(**settings)

    def test_reference_logits_have_no_other_class(self, net):
        with pytest.raises(ValueError, match="called with reference logits"):
            PGD(targeted=True, random_targets=4)(net, images(), net(images()), objective=cross_entropy)


def test_kl_to_the_clean_logits(net):
    """TRADES' inner problem: from x itself its gradient is 0, from a point beside it PGD ascends the divergence."""
    x, reference = images(), net(images()).detach()
    attack = PGD(Threat("linf", 0.1), steps=10, start="normal")
    x_adv = attack(net, x, reference, objective=kl_divergence)
    clean, noisy, crafted = (
        F.kl_div(net(z).log_softmax(1), reference.softmax(1), reduction="none").sum(1)
        for z in (x, Threat("linf", 0.1).random(x, keyed()), x_adv)
    )
    torch.testing.assert_close(clean, torch.zeros(8), atol=1e-6, rtol=0)
    assert (crafted > 4 * noisy).all()


class TestRestarts:
    def weak(self, restarts=1):
        return PGD(Threat("linf", 0.06), steps=2, step_size=0.005, restarts=restarts)

    @pytest.mark.parametrize(
        ("objective", "targeted", "target"),
        [(margin, False, Y), (margin, True, (Y + 1) % 4), (kl_divergence, False, 0.5 * torch.ones(8, 4))],
    )
    def test_they_are_the_best_of_independent_runs(self, net, objective, targeted, target):
        """Where no restart succeeds, the one that drove the objective furthest counts: here a net that never errs."""

        def sure(z):
            return net(z) + 20 * F.one_hot(Y, 4)

        x, rng = images(), keyed()
        settings = {"threat": Threat("linf", 0.06), "steps": 2, "step_size": 0.005, "targeted": targeted}
        runs = [PGD(**settings)(sure, x, target, objective=objective, rng=rng) for _ in range(6)]
        values = torch.stack([objective(sure(run), target) for run in runs])
        best = values.argmin(0) if targeted else values.argmax(0)
        assert len(set(best.tolist())) > 2  # the best run is not always the same one
        ours = PGD(**settings, restarts=6)(sure, x, target, objective=objective, rng=keyed())
        torch.testing.assert_close(ours, torch.stack(runs)[best, torch.arange(8)])

    def test_a_success_counts_whatever_its_objective(self, net):
        """Without steps, a restart is a random point; this objective prefers points that are classified right."""
        x, y, rng, threat = images(), net(images()).argmax(1), keyed(), Threat("linf", 0.5)
        points = [threat.random(x, rng) for _ in range(6)]
        fooled = torch.stack([net(point).argmax(1) != y for point in points])
        ours = PGD(threat, steps=0, restarts=6)(net, x, y, objective=lambda z, t: -margin(z, t), rng=keyed())
        assert torch.equal(net(ours).argmax(1) != y, fooled.any(0))
        assert fooled[1:].any(0)[~fooled[0]].any()  # some are fooled by a later restart only

    def test_they_never_hurt(self, net):
        x, y = images(), net(images()).argmax(1)
        fooled = [net(self.weak(n)(net, x, y, rng=keyed())).argmax(1) != y for n in (1, 4, 8)]
        assert (fooled[0] <= fooled[1]).all()
        assert (fooled[1] <= fooled[2]).all()

    @pytest.mark.parametrize(("wrong", "forwards"), [(8, [8] * 3), (5, [8] * 3 + [3] * 3), (0, [8] * 3 + [8] * 3)])
    def test_a_fooled_sample_stops(self, wrong, forwards):
        """The first `wrong` samples are misclassified from the outset and are never attacked again."""
        seen, y = [], torch.zeros(8, dtype=torch.long)
        x = images((8, 1, 2, 2), 0.3, 0.7)
        x[:, 0, 0, 0] = 0.5
        x[:wrong, 0, 0, 0] = 0.9

        def net(z):
            seen.append(len(z))
            return torch.stack([torch.full((len(z),), 0.7) + z.flatten(1)[:, 1] * 1e-3, z[:, 0, 0, 0]], 1)

        x_adv = PGD(Threat("linf", 0.05), steps=2, restarts=2)(net, x, y, rng=keyed())
        assert seen == forwards
        once = PGD(Threat("linf", 0.05), steps=2)(net, x, y, rng=keyed())
        assert torch.equal(x_adv[:wrong], once[:wrong])


def test_an_explicit_start_is_taken_as_it_is(net):
    x, start = images(), images().flip(0)  # far outside the ball
    assert torch.equal(PGD(Threat("linf", 0.01), steps=0)(net, x, Y, start=start), start)
    seen = []
    PGD(Threat("linf", 0.01), steps=1)(lambda z: seen.append(z.detach()) or net(z), x, Y, start=start)
    assert torch.equal(seen[0], start)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("start", ["uniform", "normal"])
def test_an_example_does_not_depend_on_the_rest_of_the_batch(net, norm, start):
    x, attack = images(), PGD(Threat(norm, EPS[norm]), steps=4, start=start, restarts=3, momentum=0.5)
    whole = attack(net, x, Y, rng=keyed(seed=4))
    for part in ([5], [7, 0, 3, 2]):
        alone = attack(net, x[part], Y[part], rng=SampleRNG(4, torch.tensor(part)))
        torch.testing.assert_close(alone, whole[part], atol=1e-4, rtol=0)


def test_the_global_seed_decides_when_no_draws_are_given(net):
    def crafted(seed):
        torch.manual_seed(seed)
        return PGD(steps=1)(net, images(), Y)

    assert torch.equal(crafted(1), crafted(1))
    assert not torch.equal(crafted(1), crafted(2))


def test_the_plain_function_is_the_class(net):
    x = images()
    ours = pgd(net, x, Y, "l2", "1/2", steps=3, start="none")
    assert torch.equal(ours, PGD(Threat("l2", 0.5), steps=3, start="none")(net, x, Y))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps must be >= 0, got -1"),
        ({"step_size": 0.0}, r"step_size must be > 0, got 0.0; leave it out for 2.5 eps / steps"),
        ({"step_size": "x"}, "'x' is neither a number nor a fraction"),
        ({"restarts": 0}, "restarts must be >= 1, got 0"),
        ({"momentum": -0.5}, "momentum must be >= 0, got -0.5"),
        ({"start": "zero"}, "Unknown start 'zero': choose one of uniform, normal, none"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PGD(**settings)


def test_restarts_do_not_wait_for_ranks_that_need_none():
    """Where batch norms wait for each other, a rank whose samples are all broken would leave the others waiting."""

    def on(rank):
        net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4), nn.Flatten(), nn.Linear(256, 4))
        attack = PGD(Threat("linf", 0.1), steps=1, restarts=2)
        alone = attack(net, images(), Y, bn="train")
        with process_group():
            attack(net, images(), Y)
            with pytest.raises(ValueError, match="SyncBatchNorm in training mode waits for: set attack_bn to eval"):
                attack(net, images(), Y, bn="train")
        return alone

    assert len(run_ddp(on)) == 2
