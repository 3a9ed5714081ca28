import gc

import pytest
import torch
from scipy.stats import kstest

from lightning_robust.attacks import PGD, progress
from lightning_robust.attacks.entrance import entered
from lightning_robust.attacks.start import starting_point
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from tests.helpers.toys import conv_net

X, Y = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(4)


def keyed(n=4):
    return SampleRNG(0, torch.arange(n))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_three_kinds_of_start(norm):
    threat, eps = Threat(norm, 0.2), torch.tensor([0.0, 0.01, 0.1, 0.2])
    none = starting_point(X, threat, "none", eps, keyed())
    assert torch.equal(none, X)
    assert none.data_ptr() != X.data_ptr()
    assert torch.equal(starting_point(X, threat, "uniform", eps, keyed()), threat.random(X, keyed(), eps))
    normal = starting_point(X, threat, "normal", eps, keyed())
    assert (threat.distance(normal, X) <= eps + 1e-5).all()
    assert normal.min() >= 0
    assert normal.max() <= 1


def test_the_normal_start_is_a_thousandth_of_the_normal_law():
    x = torch.full((20, 1, 10, 10), 0.5)
    noise = starting_point(x, Threat("linf", 1.0), "normal", None, keyed(20)) - x
    assert kstest(noise.flatten() / 0.001, "norm").pvalue > 0.01


def test_inside_everything_is_ready_for_gradients():
    net = conv_net()
    with torch.inference_mode():
        x, y = X.clone(), Y.clone()
        with entered(net, x, y, Threat(), "eval", None) as (_, inner_x, inner_y, rng):
            assert not inner_x.is_inference()
            assert not inner_y.is_inference()
            assert torch.equal(inner_x, x)
            assert torch.equal(inner_y, y)
            assert torch.is_grad_enabled()
            assert not net.training
            assert rng.uniform(inner_x).shape == x.shape
    assert net.training


def test_random_numbers_that_are_given_are_taken():
    given = keyed()
    with entered(conv_net(), X, Y, Threat(), "eval", given) as (_, _, _, rng):
        assert rng is given


def test_a_listener_hears_every_step_of_the_attacks_inside():
    heard = []
    with progress.listen(lambda done, total: heard.append((done, total))):
        PGD(steps=3)(conv_net(), X, Y)
    assert heard == [(1, 3), (2, 3), (3, 3)]
    PGD(steps=3)(conv_net(), X, Y)
    assert len(heard) == 3


def test_listeners_nest_and_leave_also_by_an_exception():
    outer, inner = [], []

    def two_steps_and_an_error():
        for k in progress.steps(4):
            if k == 2:
                raise RuntimeError("stop")

    with progress.listen(lambda done, _: outer.append(done)):
        with pytest.raises(RuntimeError, match="stop"), progress.listen(lambda done, _: inner.append(done)):
            two_steps_and_an_error()
        assert list(progress.steps(2)) == [0, 1]
    assert (inner, outer) == ([1, 2], [1, 2])
    assert list(progress.steps(3)) == [0, 1, 2]
    assert (inner, outer) == ([1, 2], [1, 2])


def test_an_attack_that_is_interrupted_in_a_phase_leaves_no_listener_and_no_count():
    """Its generator ends late, with the exception, when the blocks around it are left already."""
    heard = []

    def tired(done, total):
        heard.append((done, total))
        if done == 3:
            raise RuntimeError("stop")

    def three_phases():
        phases = progress.phases(range(3))
        for _ in phases:
            list(progress.steps(2))

    with pytest.raises(RuntimeError, match="stop") as kept, progress.listen(tired):
        three_phases()
    del kept
    gc.collect()
    assert list(progress.steps(2)) == [0, 1]
    assert heard == [(1, 6), (2, 6), (3, 6)]
    with progress.listen(lambda done, total: heard.append((done, total))):
        list(progress.steps(1))
    assert heard[3:] == [(1, 1)]
