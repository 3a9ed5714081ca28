"""The kernels under the metrics, against closed forms and scipy."""

import math

import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import binomtest

from lightning_robust.metrics.functional import effective_margin, effective_weight_norm, wilson_interval
from tests.helpers.toys import conv_net, linear_net

WEIGHT = torch.tensor([[3.0, 0.0], [0.0, 4.0], [-1.0, -1.0]], dtype=torch.float64)


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (1, 10), (7, 10), (10, 10), (123, 450), (1, 1), (4999, 10000)])
def test_wilson_interval_is_scipys(correct: int, n: int) -> None:
    reference = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(correct, n) == pytest.approx((reference.low, reference.high), abs=1e-7)


def test_wilson_interval_contains_the_proportion_whatever_the_rounding() -> None:
    for n in range(1, 100):
        for correct in (0, 1, n - 1, n):
            low, high = wilson_interval(correct, n)
            assert 0 <= low <= correct / n <= high <= 1  # a figure's bars cannot be negative


@pytest.mark.parametrize(("correct", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_wilson_interval_refuses_impossible_counts(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= correct <= n"):
        wilson_interval(correct, n)


def test_effective_margin_of_a_linear_net_is_the_distance_to_its_nearest_boundary() -> None:
    net = linear_net(WEIGHT)
    x = torch.tensor([[0.8, 0.2], [0.2, 0.1], [0.3, 0.9]], dtype=torch.float64)
    y = torch.tensor([0, 0, 0])  # the last is misclassified as 1
    got = effective_margin(net, x.view(3, 1, 1, 2), y)
    for i in range(3):
        # the closest of the points where class 0 ties with another: quadratic programs solved by scipy, another way
        distances = []
        for j in (1, 2):
            w = (WEIGHT[0] - WEIGHT[j]).numpy()
            on_boundary = {"type": "eq", "fun": lambda z, w=w: w @ z}
            found = minimize(lambda z, i=i: ((z - x[i].numpy()) ** 2).sum(), x[i].numpy(), constraints=on_boundary)
            distances.append(math.copysign(math.sqrt(found.fun), w @ x[i].numpy()))
        assert float(got[i]) == pytest.approx(min(distances), abs=1e-5)
    assert (got[:2] > 0).all()
    assert got[2] < 0


def test_effective_margin_with_too_few_candidates_looks_at_the_highest_logits_only() -> None:
    # class 1 has the higher logit, class 2 the nearer boundary
    weight = torch.tensor([[1.0, 0.0], [0.9, 0.0], [0.0, 9.0]])
    net, x, y = linear_net(weight, torch.tensor([0.0, 0.0, -1.0])), torch.tensor([[0.9, 0.1]]), torch.tensor([0])
    near = (0.9 - (0.9 - 1)) / math.hypot(1, 9)
    far = 0.1 * 0.9 / 0.1
    assert near < far
    x = x.view(1, 1, 1, 2)
    assert float(effective_margin(net, x, y)) == pytest.approx(near, rel=1e-4)
    assert float(effective_margin(net, x, y, candidates=1)) == pytest.approx(far, rel=1e-4)
    assert float(effective_margin(net, x, y, candidates=2)) == pytest.approx(near, rel=1e-4)
    assert float(effective_margin(net, x, y, candidates=99)) == pytest.approx(near, rel=1e-4)


def test_effective_margin_differentiates_the_net_in_evaluation_mode_and_leaves_it_alone() -> None:
    net = conv_net().double()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x, y = torch.rand(3, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2])
    with torch.inference_mode():  # as inside Lightning's `test`
        got = effective_margin(net, x, y)
    assert net.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())

    net.eval()  # central differences of each gap along each pixel, in float64
    with torch.no_grad():
        flat = x.flatten(1)
        for i in range(3):
            step = 1e-5 * torch.eye(flat.shape[1], dtype=torch.float64)
            up, down = net((flat[i] + step).view(-1, 3, 8, 8)), net((flat[i] - step).view(-1, 3, 8, 8))
            slope, logits = (up - down) / 2e-5, net(x[i : i + 1])[0]
            margins = [
                float((logits[y[i]] - logits[j]) / (slope[:, y[i]] - slope[:, j]).norm()) for j in range(4) if j != y[i]
            ]
            assert float(got[i]) == pytest.approx(min(margins), rel=1e-6)


@pytest.mark.parametrize("candidates", [None, 1, 5])
def test_a_masked_class_plays_no_part_in_effective_margins_and_weights(candidates: int | None) -> None:
    x, y = torch.rand(6, 1, 1, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    net, mask = linear_net(WEIGHT), torch.tensor([0.0, 0.0, 0.0, -torch.inf], dtype=torch.float64)
    wide = linear_net(torch.cat([WEIGHT, WEIGHT[:1] + 1]))

    def masked(z: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = wide(z) + mask
        return out

    torch.testing.assert_close(effective_margin(masked, x, y, candidates), effective_margin(net, x, y, candidates))
    torch.testing.assert_close(effective_weight_norm(masked, x), effective_weight_norm(net, x))
