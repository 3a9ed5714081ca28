import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_robust.attacks.hyperplane import nearest_boundary, smallest_shift
from tests.helpers.toys import least_shift_size, linear_net

NORMS = {"linf": math.inf, "l2": 2, "l1": 1}
UNIT = (0.0, 1.0)


def problem(n, d, dtype=torch.float64):
    """Images of which a third of the pixels are at a wall, normals, and gaps from small to hardly reachable."""
    source = torch.Generator().manual_seed(1)
    x = (2 * torch.rand(n, d, generator=source, dtype=dtype) - 0.5).clamp(0, 1)
    w = torch.randn(n, d, generator=source, dtype=dtype)
    most = torch.maximum(w * (1 - x), -w * x).sum(1)
    return w, torch.linspace(0.01, 0.99, n, dtype=dtype) * most, x


@pytest.mark.parametrize("norm", NORMS)
@given(data=st.data())
def test_the_least_shift_equals_a_general_solvers(norm, data):
    """Weights and pixels from short lists, so that some are zero, equal, or at the wall."""
    d = data.draw(st.integers(1, 6))
    w = torch.tensor(data.draw(st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.3, 1.0]), min_size=d, max_size=d))).double()
    x = torch.tensor(data.draw(st.lists(st.sampled_from([-0.5, 0.0, 0.4, 1.7, 2.0]), min_size=d, max_size=d))).double()
    gap = data.draw(st.sampled_from([-3.0, -0.4, 0.0, 0.1, 1.0, 6.5]))
    best = least_shift_size(w, gap, x, norm, -0.5, 2.0)
    shift = smallest_shift(w, torch.tensor(gap).double(), x, norm, -0.5, 2.0)
    assert (x + shift).min() >= -0.5 - 1e-12
    assert (x + shift).max() <= 2 + 1e-12
    if best < math.inf:
        torch.testing.assert_close(float(w @ shift), gap, rtol=0, atol=1e-6)
        torch.testing.assert_close(float(shift.norm(p=NORMS[norm])), best, rtol=1e-5, atol=1e-6)
    else:  # the corner that comes closest
        corner = torch.where(w * gap > 0, 2.0, -0.5).double()
        torch.testing.assert_close(shift, torch.where(w == 0, 0, corner - x))


@pytest.mark.parametrize("norm", NORMS)
def test_points_may_share_hyperplanes_and_batches(norm):
    w, gap, x = problem(6, 20)
    points, gaps = torch.stack([x, x.flip(1)]), torch.stack([gap, -gap])
    together = smallest_shift(w, gaps, points, norm, *UNIT)
    for i in range(2):
        for j in range(6):
            torch.testing.assert_close(smallest_shift(w[j], gaps[i, j], points[i, j], norm, *UNIT), together[i, j])


@pytest.mark.parametrize("norm", NORMS)
def test_single_precision_on_large_images(norm):
    w, gap, x = problem(8, 3072)
    exact = smallest_shift(w, gap, x, norm, *UNIT)
    ours = smallest_shift(w.float(), gap.float(), x.float(), norm, *UNIT).double()
    torch.testing.assert_close((w * ours).sum(1), gap, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.norm(p=NORMS[norm], dim=1), exact.norm(p=NORMS[norm], dim=1), rtol=1e-4, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_the_scale_of_the_hyperplane_does_not_matter(norm):
    w, gap, x = (t.float() for t in problem(5, 30))
    whole = smallest_shift(w, gap, x, norm, *UNIT)
    for scale in (1e-30, 1e30):
        torch.testing.assert_close(smallest_shift(scale * w, scale * gap, x, norm, *UNIT), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("gap", [0.0, 1.0, -1e-30, 1e38])
def test_a_net_without_slope_is_not_moved_on(norm, gap):
    assert not smallest_shift(torch.zeros(2, 5), torch.full((2,), gap), torch.rand(2, 5), norm, *UNIT).any()


@pytest.mark.parametrize("norm", NORMS)
def test_the_nearest_boundary_of_a_linear_net(norm):
    """By hand: of all differences of rows, the one with the least |gap| over the dual norm."""
    source = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(5, 12, generator=source), torch.randn(5, generator=source)
    x, y = torch.rand(20, 1, 3, 4, generator=source), torch.arange(20, dtype=torch.long) % 5
    w, gap = nearest_boundary(linear_net(weight, bias), x, y, 4, norm)
    dual = {"linf": 1, "l2": 2, "l1": math.inf}[norm]
    chosen = set()
    for i in range(20):
        rows = [j for j in range(5) if j != y[i]]
        normals = weight[rows] - weight[y[i]]
        gaps = -(normals @ x[i].flatten() + bias[rows] - bias[y[i]])
        best = (gaps.abs() / normals.norm(p=dual, dim=1)).argmin()
        torch.testing.assert_close(w[i], normals[best], atol=1e-5, rtol=0)
        torch.testing.assert_close(gap[i], gaps[best], atol=1e-5, rtol=0)
        chosen.add(rows[best])
    assert len(chosen) > 2
    wanted = (y + 1) % 5
    w, _ = nearest_boundary(linear_net(weight, bias), x, y, wanted[:, None], norm)
    torch.testing.assert_close(w, weight[wanted] - weight[y])
