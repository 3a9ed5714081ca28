import pytest
import torch

from lightning_robust.attacks import APGD, FAB, PGD, AutoAttack, Ensemble, Square
from lightning_robust.attacks.base import FORWARD_ROOM, Attack
from lightning_robust.attacks.functional import autoattack
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from tests.helpers.spread import spread
from tests.helpers.toys import conv_net
from tests.helpers.trained import EPS, held_out, trained_net

THREAT = Threat("linf", EPS["linf"])


class Reaches(Attack):
    """Breaks the samples whose first pixel is below a mark, by giving another sample's image; remembers what it saw."""

    def __init__(self, below, threat=THREAT):
        super().__init__(threat)
        self.below, self.saw = below, []

    def _perturb(self, net, x, target, call):
        self.saw.append(x[:, 0, 0, 0].tolist())
        return torch.where((x[:, :1, :1, :1] < self.below), 1 - x, x)


def first_pixel_net(x):
    """Right (class 0) on 0 <= first pixel <= 0.5, wrong above."""
    pixel = x[:, 0, 0, 0]
    return torch.stack([0.5 - pixel, pixel - 0.5], 1)


def marked(values):
    x = torch.full((len(values), 1, 2, 2), 0.3)
    x[:, 0, 0, 0] = torch.tensor(values)
    return x, torch.zeros(len(values), dtype=torch.long)


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3])
def test_each_attack_sees_only_what_the_ones_before_left(batch_size):
    """0.9 is wrong from the start; the survivors of all batches are pooled."""
    x, y = marked([0.4, 0.9, 0.1, 0.3, 0.2, 0.45])
    first, second, third = Reaches(0.25), Reaches(0.42), Reaches(0.1)
    x_adv = Ensemble({"a": first, "b": second, "c": third}, batch_size)(first_pixel_net, x, y)
    seen = [[v for batch in attack.saw for v in batch] for attack in (first, second, third)]
    assert seen == [pytest.approx(v) for v in ([0.4, 0.1, 0.3, 0.2, 0.45], [0.4, 0.3, 0.45], [0.45])]
    assert max(len(batch) for batch in first.saw) <= (batch_size or 6)
    torch.testing.assert_close(x_adv[:, 0, 0, 0], torch.tensor([0.6, 0.9, 0.9, 0.7, 0.8, 0.45]))
    assert torch.equal(x_adv[5], x[5])  # what stands is returned as it is


@pytest.mark.slow
def test_a_radius_and_a_step_for_each_sample():
    net, (x, y) = trained_net(), held_out(20)
    eps = torch.linspace(0, 0.3, 20)
    x_adv = Ensemble({"a": PGD(THREAT, steps=2), "b": PGD(THREAT, steps=2)}, 6)(net, x, y, eps=eps, step_size=eps / 2)
    assert (THREAT.distance(x_adv, x) <= eps + 1e-6).all()
    assert 0 < (net(x_adv).argmax(1) != y).sum() < 20


def test_it_ends_when_nothing_stands():
    last = Reaches(0.0)
    Ensemble({"a": Reaches(1.0), "b": last})(first_pixel_net, *marked([0.1, 0.2]))
    assert last.saw == []


@pytest.mark.slow
def test_the_worst_case_is_that_of_its_attacks_alone():
    net, (x, y) = trained_net(), held_out(40)
    attacks = {"pgd": PGD(THREAT, steps=3), "square": Square(THREAT, queries=30), "fab": FAB(THREAT, steps=5)}
    both = net(Ensemble(attacks)(net, x, y, rng=SampleRNG(0, torch.arange(40)))).argmax(1) == y
    alone = torch.ones(40, dtype=torch.bool)
    for number, attack in enumerate(attacks.values()):
        rng = SampleRNG(0, torch.arange(40)).fork(number)
        alone &= net(attack(net, x, y, rng=rng)).argmax(1) == y
    assert torch.equal(both, alone & (net(x).argmax(1) == y))


def test_an_ensemble_within_an_ensemble_shows_its_stages():
    inner = Ensemble({"x": PGD(THREAT), "y": PGD(THREAT, steps=2)})
    assert list(Ensemble({"a": PGD(THREAT), "b": inner}).stages) == ["a", "b-x", "b-y"]


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="got 0: no attacks"):
        Ensemble({})
    with pytest.raises(ValueError, match="one threat model, got 2"):
        Ensemble({"a": PGD(THREAT), "b": PGD(Threat("l2", 1.0))})
    with pytest.raises(ValueError, match="batch_size must be >= 1"):
        Ensemble({"a": PGD(THREAT)}, batch_size=0)


class TestAutoAttack:
    def test_the_standard_version_is_the_published_one(self):
        """Croce & Hein 2020, section 4; for l1 Croce & Hein 2021, section 4.3."""
        stages = AutoAttack(THREAT).stages
        assert list(stages) == ["apgd-ce", "apgd-t", "fab-t", "square"]
        ce, targeted, fab, square = stages.values()
        assert (ce.steps, ce.loss, ce.targets, ce.restarts, ce.rho, ce.eot) == (100, "ce", None, 1, 0.75, 1)
        assert (targeted.steps, targeted.targets, targeted.restarts) == (100, 9, 1)
        assert (fab.steps, fab.targets, fab.restarts) == (100, 9, 1)
        assert (fab.alpha_max, fab.eta, fab.beta) == (0.1, 1.05, 0.9)
        assert (square.queries, square.p_init, square.restarts) == (5000, 0.8, 1)
        sparse = AutoAttack(Threat("l1", 12.0)).stages
        assert (sparse["apgd-ce"].restarts, sparse["apgd-t"].targets) == (5, 5)

    def test_the_other_versions(self):
        assert list(AutoAttack(THREAT, "rapid").stages) == ["apgd-ce", "apgd-t"]
        assert [stage.eot for stage in AutoAttack(THREAT, "rand").stages.values()] == [20, 20]
        assert len(AutoAttack(THREAT, "plus").stages) == 6
        fast, standard = AutoAttack(THREAT, "fast").stages, AutoAttack(THREAT).stages
        assert list(fast) == list(standard)
        assert (fast["apgd-t"].targets, fast["apgd-t"].order, fast["apgd-t"].steps) == (4, "distance", 100)
        assert (fast["fab-t"].targets, fast["fab-t"].steps, fast["square"].queries) == (3, 100, 500)
        with pytest.raises(
            ValueError, match="Unknown version 'quick': choose one of standard, fast, rapid, rand, plus"
        ):
            AutoAttack(THREAT, "quick")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("norm", "k", "shape"),
        [
            (norm, *kind)
            for norm, kind in spread(
                ["linf", "l2", "l1"], [(2, (1, 28, 28)), (1000, (1, 8, 8)), (3, (3, 17, 23))], one_in=3
            )
        ],
    )
    def test_any_number_of_classes_and_any_shape(self, k, shape, norm):
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(shape[0] * shape[1] * shape[2], k))
        x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
        y, eps = net(x).argmax(1), {"linf": 0.004, "l2": 0.02, "l1": 0.2}[norm]
        attack = AutoAttack(Threat(norm, eps), batch_size=3)
        attack.attacks["square"].queries = 200
        x_adv = attack(net, x, y)
        assert x_adv.isfinite().all()
        assert (attack.threat.distance(x_adv, x) <= eps * (1 + 1e-4)).all()

    def test_as_a_plain_function(self):
        net, x = conv_net().eval(), torch.rand(3, 3, 8, 8)
        y = net(x).argmax(1)
        x_adv = autoattack(net, x, y, "linf", 0.3, version="rapid")
        assert (net(x_adv).argmax(1) != y).all()
        assert all(isinstance(stage, APGD) for stage in AutoAttack(THREAT, "rapid").stages.values())


def test_attacks_without_gradients_take_more_images_at_a_time():
    assert Square().fitting(10) == FORWARD_ROOM * 10
    assert APGD().fitting(10) == FAB().fitting(10) == 10
    sizes = {False: [], True: []}

    def net(x):
        sizes[torch.is_grad_enabled()].append(len(x))
        return 1e-3 * x.flatten(1)[:, :4] + torch.tensor([1.0, 0.0, 0.0, 0.0])

    threat = Threat(eps=1e-3)
    attack = Ensemble({"apgd": APGD(threat, steps=2), "square": Square(threat, queries=3)}, batch_size=8)
    attack(net, torch.rand(48, 1, 4, 4), torch.zeros(48, dtype=torch.long))
    assert max(sizes[True]) == 8
    assert max(sizes[False]) == 32
