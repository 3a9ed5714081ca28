import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from scipy.stats import beta, kstest, uniform
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_robust.attacks import PGD
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import L1_SPARSITY, Threat, _project_l1

NORMS = ["linf", "l2", "l1"]
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}
WIDE = {"lower": -100.0, "upper": 100.0}  # a box that is nowhere in the way


def numbers(low, high, width=32):
    return st.floats(low, high, width=width, allow_subnormal=False)


def images(low, high, dtype=np.float32):
    width = 32 if dtype == np.float32 else 64
    return arrays(dtype, (2, 1, 2, 3), elements=numbers(low, high, width)).map(torch.from_numpy)


def size(delta, norm):
    return torch.from_numpy(np.linalg.norm(delta.flatten(1).numpy(), ORDER[norm], axis=1))


@pytest.mark.parametrize("norm", NORMS)
@given(x=images(0, 1), far=images(-3, 3), eps=arrays(np.float32, 2, elements=numbers(0, 4)).map(torch.from_numpy))
def test_project_lands_in_ball_and_box_and_stays_there(norm, x, far, eps):
    threat = Threat(norm)
    near = threat.project(far, x, eps)
    assert (size(near - x, norm) <= eps + 1e-5).all()
    assert near.min() >= 0
    assert near.max() <= 1
    torch.testing.assert_close(threat.project(near, x, eps), near, atol=1e-5, rtol=0)


@given(x=images(0, 1), inside=images(0, 1))
def test_project_leaves_alone_what_is_allowed(x, inside):
    for norm in NORMS:
        eps = size(inside - x, norm) * 1.0001 + 1e-6
        torch.testing.assert_close(Threat(norm).project(inside, x, eps), inside, atol=1e-6, rtol=0)


@given(x=images(0, 1, np.float64), far=images(-3, 3, np.float64), eps=st.floats(0.01, 1))
def test_linf_projection_is_the_nearest_point(x, far, eps):
    x, far = x.numpy(), far.numpy()
    nearest = np.clip(far, np.maximum(x - eps, 0), np.minimum(x + eps, 1))
    np.testing.assert_allclose(Threat("linf", eps).project(torch.from_numpy(far), torch.from_numpy(x)), nearest)


@given(x=images(0, 1, np.float64), far=images(-3, 3, np.float64), eps=st.floats(0.01, 4))
def test_l2_projection_is_the_nearest_point_without_the_box(x, far, eps):
    nearest = torch.stack(
        [a + (b - a) * min(1, eps / max(float((b - a).norm()), 1e-12)) for a, b in zip(x, far, strict=True)]
    )
    torch.testing.assert_close(Threat("l2", eps, **WIDE).project(far, x), nearest)


def nearest_l1(x, far, eps):
    """The quadratic programme min ||p - n - delta||^2 with p, n >= 0, sum(p + n) <= eps and x + p - n in the box."""
    d = len(x)
    delta = far - x
    split = np.concatenate([np.eye(d), -np.eye(d)], axis=1)
    solution = minimize(
        lambda v: ((split @ v - delta) ** 2).sum(),
        np.zeros(2 * d),
        jac=lambda v: 2 * split.T @ (split @ v - delta),
        bounds=[(0, room) for room in (*(1 - x), *x)],
        constraints={"type": "ineq", "fun": lambda v: eps - v.sum(), "jac": lambda v: -np.ones(2 * d)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 300},
    )
    return x + split @ solution.x


@pytest.mark.parametrize("seed", range(12))
def test_l1_projection_is_the_nearest_point(seed):
    rng = np.random.default_rng(seed)
    x, far, eps = rng.random((3, 6)), rng.normal(0.5, 1.5, (3, 6)), rng.uniform(0.05, 3, 3)
    expected = np.stack([nearest_l1(*row) for row in zip(x, far, eps, strict=True)])
    ours = Threat("l1").project(*(torch.from_numpy(a) for a in (far, x, eps)))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def shrunk(delta, room, eps):
    """The nearest point by plain bisection in float64, until no number is left between the bracket's ends."""
    height, low, high = np.abs(delta), 0.0, float(np.abs(delta).max())
    while np.minimum(height, room).sum() > eps and low < (middle := (low + high) / 2) < high:
        outside = np.minimum(np.maximum(height - middle, 0), room).sum() > eps
        low, high = (middle, high) if outside else (low, middle)
    threshold = high if np.minimum(height, room).sum() > eps else 0
    return np.sign(delta) * np.minimum(np.maximum(height - threshold, 0), room)


@st.composite
def l1_cases(draw):
    """Images, perturbations and radii with what is degenerate: no room, no move, no radius, equal moves, huge moves."""
    dtype, width = draw(st.sampled_from([(np.float32, 32), (np.float64, 64)]))
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 20))
    x = draw(arrays(dtype, shape, elements=st.sampled_from([0.0, 0.5, 1.0]) | numbers(0, 1, width)))
    moves = st.sampled_from([0.0, 1.0, -1.0, 0.5, 2.0]) | numbers(-2, 2, width)
    delta = draw(arrays(dtype, shape, elements=moves)) * dtype(draw(st.sampled_from([1e-8, 1.0, 3.0, 1e4])))
    if draw(st.booleans()):
        delta[:] = delta[:, :1]
    eps = draw(arrays(dtype, shape[0], elements=st.sampled_from([0.0, 1.0, 100.0]) | numbers(0, 4, width)))
    lower, upper = draw(st.sampled_from([(0.0, 1.0), (0.0, math.inf), (-math.inf, math.inf)]))
    return x, delta, eps, dtype(lower) - x, dtype(upper) - x


@given(case=l1_cases())
def test_l1_projection_equals_bisection_whatever_else_is_in_the_batch(case):
    x, delta, eps, lower, upper = case
    rows = [torch.from_numpy(a) for a in (delta, eps[:, None], lower, upper)]
    ours = _project_l1(*rows)
    assert (ours <= rows[3]).all()
    assert (ours >= rows[2]).all()
    for i, (move, point) in enumerate(zip(delta.astype(np.float64), ours, strict=True)):
        assert torch.equal(_project_l1(*(a[i : i + 1] for a in rows))[0], point)
        exact = shrunk(move, np.where(move > 0, upper[i], -lower[i]).astype(np.float64), float(eps[i]))
        rounding = 8 * np.finfo(x.dtype).eps
        found = point.numpy().astype(np.float64)
        np.testing.assert_allclose(found, exact, rtol=0, atol=rounding * (eps[i] + np.abs(move).max()) + 1e-44)
        assert np.abs(found).sum() <= eps[i] * (1 + rounding)


class Passes(TorchDispatchMode):
    """Counts operations on tensors as large as the images, which are what a projection's time goes into."""

    def __init__(self, images):
        super().__init__()
        self.size, self.count = images.numel(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        is_view = isinstance(out, torch.Tensor) and out._is_view()
        self.count += not is_view and any(isinstance(a, torch.Tensor) and a.numel() == self.size for a in args)
        return out


@pytest.mark.parametrize("eps", [0.0, 0.5, 12.0])
def test_an_l1_projection_takes_few_passes_over_the_images(eps):
    """A bisection that narrows the threshold 40 times takes 179 (counted, since times are noisy)."""
    gen = torch.Generator().manual_seed(0)
    x, noise = torch.rand(4, 3, 64, 64, generator=gen), torch.randn(4, 3, 64, 64, generator=gen)
    for scale in (0.01, 1):
        with Passes(x) as passes:
            Threat("l1", eps).project(x + scale * noise, x)
        assert passes.count <= 120


@pytest.mark.parametrize("norm", NORMS)
@given(x=images(0, 1), seed=st.integers(0, 2**31), eps=numbers(0, 3))
def test_random_is_in_ball_and_box(norm, x, seed, eps):
    eps = min(eps, 1) if norm == "linf" else eps  # not larger than the box
    threat = Threat(norm, eps)
    start = threat.random(x, SampleRNG(seed, torch.arange(2)))
    assert (size(start - x, norm) <= eps + 1e-5).all()
    assert start.min() >= 0
    assert start.max() <= 1


@pytest.mark.parametrize("norm", NORMS)
def test_random_is_uniform_in_the_ball(norm):
    """The marginals of the uniform law: radius^d; a pixel's share of an l1 ball; Archimedes' for the 2-sphere."""
    eps, d, x = 0.7, 3, torch.zeros(4000, 1, 1, 3)
    delta = Threat(norm, eps, **WIDE).random(x, SampleRNG(5, torch.arange(4000))).flatten(1) / eps
    assert kstest(size(delta, norm) ** d, "uniform").pvalue > 0.01
    for pixel in delta.T:
        assert abs((pixel > 0).float().mean() - 0.5) < 4 * 0.5 / math.sqrt(4000)
        if norm == "linf":
            assert kstest(pixel, uniform(-1, 2).cdf).pvalue > 0.01
        elif norm == "l2":
            assert kstest(pixel / delta.norm(dim=1), uniform(-1, 2).cdf).pvalue > 0.01
        else:
            assert kstest(pixel.abs(), beta(1, d).cdf).pvalue > 0.01


@pytest.mark.parametrize("norm", NORMS)
def test_each_sample_has_its_own_radius(norm):
    x, far, eps = torch.rand(3, 1, 2, 3), torch.randn(3, 1, 2, 3), torch.tensor([0.0, 0.1, 0.4])
    project, start = Threat(norm).project(far, x, eps), Threat(norm).random(x, SampleRNG(0, torch.arange(3)), eps)
    for i in range(3):
        alone, one = Threat(norm, float(eps[i])), slice(i, i + 1)
        torch.testing.assert_close(project[one], alone.project(far[one], x[one]))
        torch.testing.assert_close(start[one], alone.random(x[one], SampleRNG(0, torch.tensor([i]))))
    assert (project[0] == x[0]).all()
    assert (start[0] == x[0]).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-25, 1e-8, 1.0, 1e20])
def test_steepest_attains_the_dual_norm_at_any_scale(norm, scale):
    grad = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    direction = Threat(norm).steepest((scale * grad).float()).double()
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    torch.testing.assert_close(size(direction, norm), torch.ones(5, dtype=torch.float64), rtol=1e-5, atol=0)
    gain = (grad * direction).flatten(1).sum(1)
    torch.testing.assert_close(gain, torch.from_numpy(np.linalg.norm(grad.flatten(1), dual, axis=1)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_a_zero_gradient_gives_a_zero_direction(norm):
    assert (Threat(norm).steepest(torch.zeros(2, 1, 4, 4)) == 0).all()


def test_the_l1_step_is_shared_by_the_greatest_pixels():
    grad = torch.randn(2, 3, 10, 10)
    flat = Threat("l1").steepest(grad).flatten(1)
    for step, g in zip(flat, grad.flatten(1), strict=True):
        greatest = g.abs().argsort(descending=True)[: round(L1_SPARSITY * 300)]
        assert set(step.nonzero()[:, 0].tolist()) == set(greatest.tolist())
        torch.testing.assert_close(step[greatest], g[greatest].sign() / 3)


def test_the_l1_step_passes_over_pixels_at_the_wall():
    grad = torch.tensor([[5.0, -4.0, 3.0, -2.0]])
    at_walls = torch.tensor([[1.0, 0.0, 0.5, 0.5]])
    assert Threat("l1").steepest(grad, at_walls).tolist() == [[0, 0, 1, 0]]
    assert Threat("l1").steepest(-grad, at_walls).tolist() == [[-1, 0, 0, 0]]


@pytest.mark.parametrize("norm", NORMS)
def test_distance_equals_numpy(norm):
    x, x_adv = torch.rand(2, 4, 3, 5, 5)
    torch.testing.assert_close(Threat(norm).distance(x_adv, x), size(x_adv - x, norm))


def test_fractions_defaults_and_identity():
    assert Threat() == Threat("linf", "8/255") == Threat("linf", 8 / 255, 0, 1)
    assert Threat("l2", "1/2").eps == 0.5
    assert len({Threat(), Threat("l2"), Threat()}) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "l3"}, "Unknown norm 'l3': choose one of linf, l2, l1"),
        ({"eps": -0.1}, "finite number >= 0, got -0.1"),
        ({"eps": "nan"}, "finite number >= 0, got nan"),
        ({"eps": math.inf}, "finite number >= 0, got inf"),
        ({"eps": "eight"}, "'eight' is neither a number nor a fraction"),
        ({"lower": 1.0, "upper": 0.0}, r"lower < upper, got \[1.0, 0.0\]"),
        ({"lower": 1.0, "upper": 1.0}, r"lower < upper, got \[1.0, 1.0\]"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(Threat.__init__)(object.__new__(Threat), **arguments)  # beneath the tests' own type checker


def test_l0_counts_values_and_keeps_the_best_ones():
    """The nearest point with two changed values: those whose change, cut to the box, brings it nearest."""
    threat = Threat("l0", 2)
    x = torch.tensor([[[[0.5, 0.5, 0.5, 0.9]]]])
    moved = torch.tensor([[[[0.9, 0.45, 0.2, 1.7]]]])  # cut to 1, the last one comes nearer by 0.64 - 0.49
    torch.testing.assert_close(threat.project(moved, x), torch.tensor([[[[0.9, 0.5, 0.5, 1.0]]]]))
    best = min(
        ((kept - moved).square().sum().item(), kept)
        for some in itertools.combinations(range(4), 2)
        for kept in [torch.stack([moved.clamp(0, 1)[..., i] if i in some else x[..., i] for i in range(4)], -1)]
    )[1]
    torch.testing.assert_close(threat.project(moved, x), best)
    assert threat.distance(moved, x).item() == 4
    many = x.expand(50, 1, 1, 4)
    drawn = threat.random(many, SampleRNG(0, torch.arange(50)))
    assert (threat.distance(drawn, many) == 2).all()
    assert ((drawn >= 0) & (drawn <= 1)).all()


def test_l0_takes_whole_numbers_alone_and_has_no_steepest_direction():
    with pytest.raises(ValueError, match="how many values may change, a whole number"):
        Threat("l0", 2.5)
    with pytest.raises(ValueError, match="no steepest direction in l0"):
        Threat("l0", 2).steepest(torch.ones(1, 3))
    with pytest.raises(ValueError, match="box, which must be finite"):
        Threat("l0", 2, -math.inf).random(torch.ones(1, 3), SampleRNG(0, torch.arange(1)))
    with pytest.raises(ValueError, match="got a threat in l0"):
        PGD(Threat("l0", 2))
