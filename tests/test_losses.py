import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.special import log_softmax
from scipy.stats import entropy

from lightning_robust.losses import (
    boosted_cross_entropy,
    cross_entropy,
    distinct,
    dlr,
    js_divergence,
    kl_divergence,
    l1_distance,
    label_logit,
    logit_distance,
    margin,
    mean_logit,
    probability_margin,
    runners_up,
    squared_l2,
    symmetric_kl,
    targeted_dlr,
)

LOGITS = 3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
Y = torch.cat([LOGITS[:3].argmax(1), LOGITS[3:].argmin(1)])  # three right, three wrong


def test_cross_entropy_equals_scipy():
    expected = -log_softmax(LOGITS.numpy(), axis=1)[range(6), Y]
    torch.testing.assert_close(cross_entropy(LOGITS, Y), torch.tensor(expected))


def test_margin_equals_a_loop_and_says_who_errs():
    expected = [
        max(row[j] for j in range(5) if j != y) - row[y] for row, y in zip(LOGITS.tolist(), Y.tolist(), strict=True)
    ]
    torch.testing.assert_close(margin(LOGITS, Y), torch.tensor(expected))
    assert (margin(LOGITS, Y) > 0).tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize("n", [1, 3, 4, 9])
def test_the_runners_up_equal_a_sort(n):
    expected = [
        sorted((j for j in range(5) if j != y), key=lambda j, row=row: -row[j])[:n]
        for row, y in zip(LOGITS.tolist(), Y.tolist(), strict=True)
    ]
    assert runners_up(LOGITS, Y, n).tolist() == expected


def test_kl_divergence_equals_scipy_in_the_right_direction():
    reference = LOGITS.flip(0)
    expected = entropy(reference.softmax(1).numpy(), LOGITS.softmax(1).numpy(), axis=1)  # KL(first || second)
    torch.testing.assert_close(kl_divergence(LOGITS, reference), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_kl_divergence_is_zero_where_logits_differ_by_a_constant():
    torch.testing.assert_close(kl_divergence(LOGITS, LOGITS + 7), torch.zeros(6), atol=1e-5, rtol=0)


@pytest.mark.parametrize("loss", [cross_entropy, margin, kl_divergence])
def test_gradients_equal_finite_differences(loss):
    logits = LOGITS.double().requires_grad_()
    if loss is kl_divergence:
        assert torch.autograd.gradcheck(loss, (logits, LOGITS.double().flip(0).requires_grad_()))
    else:
        assert torch.autograd.gradcheck(lambda z: loss(z, Y), logits)


@pytest.mark.parametrize("loss", [cross_entropy, margin, kl_divergence])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_single(loss, dtype):
    logits = LOGITS.to(dtype)
    target = logits.flip(0) if loss is kl_divergence else Y
    value = loss(logits, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits.float(), target.float() if loss is kl_divergence else target))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_type_are_the_same_labels(dtype):
    for loss in (cross_entropy, margin):
        torch.testing.assert_close(loss(LOGITS, Y.to(dtype)), loss(LOGITS, Y))


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    y = torch.tensor([0, 0])
    torch.testing.assert_close(cross_entropy(logits, y), torch.tensor([0.0, 2e4]))
    torch.testing.assert_close(margin(logits, y), torch.tensor([-2e4, 2e4]))
    torch.testing.assert_close(kl_divergence(logits, logits.flip(0)), torch.tensor([2e4, 2e4]))


def test_the_shape_annotations_are_in_force():
    y = LOGITS.argmax(1)
    assert len(LOGITS.gather(1, y[:1, None])) == 1  # torch itself takes labels of fewer samples
    for labels in (y[:1], y[:, None], torch.softmax(LOGITS, 1)[:, 1:]):
        with pytest.raises(TypeCheckError):
            margin(LOGITS, labels)


class TestDifferenceOfLogitsRatio:
    """Croce & Hein 2020, equations 6 and 7, written out on sorted logits."""

    logits, y = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3, 4, 0])

    def test_untargeted(self):
        for row, label, value in zip(self.logits, self.y, dlr(self.logits, self.y), strict=True):
            top = sorted(row.tolist(), reverse=True)
            rival = max(v for j, v in enumerate(row.tolist()) if j != label)
            assert float(value) == pytest.approx(-(float(row[label]) - rival) / (top[0] - top[2]), rel=1e-5)

    def test_targeted(self):
        wanted = (self.y + 2) % 5
        told = targeted_dlr(self.logits, self.y, wanted)
        for row, label, target, value in zip(self.logits, self.y, wanted, told, strict=True):
            top = sorted(row.tolist(), reverse=True)
            below = top[0] - 0.5 * (top[2] + top[3])
            assert float(value) == pytest.approx(-float(row[label] - row[target]) / below, rel=1e-5)

    def test_neither_shift_nor_scale_of_the_logits_matters(self):
        wanted = (self.y + 1) % 5
        for loss in (dlr, lambda z, y: targeted_dlr(z, y, wanted)):
            torch.testing.assert_close(loss(100 * self.logits + 7, self.y), loss(self.logits, self.y))

    @pytest.mark.parametrize("k", [2, 3])
    def test_with_too_few_classes_the_difference_alone(self, k):
        logits, y = self.logits[:, :k], self.y % k
        wanted = (y + 1) % k
        gap = (logits.gather(1, wanted[:, None]) - logits.gather(1, y[:, None]))[:, 0]
        torch.testing.assert_close(targeted_dlr(logits, y, wanted), gap)
        if k == 2:
            torch.testing.assert_close(dlr(logits, y), gap)


PAIRS = {
    "kl_divergence": kl_divergence,
    "symmetric_kl": symmetric_kl,
    "js_divergence": js_divergence,
    "squared_l2": squared_l2,
    "l1_distance": l1_distance,
    "logit_distance": logit_distance,
}
SINGLES = {
    "cross_entropy": cross_entropy,
    "boosted_cross_entropy": boosted_cross_entropy,
    "margin": margin,
    "label_logit": label_logit,
    "probability_margin": probability_margin,
    "dlr": dlr,
    "targeted_dlr": lambda z, y: targeted_dlr(z, y, runners_up(z, y, 1)[:, 0]),
    "mean_logit": lambda z, y: mean_logit(z),
}


def with_masked(logits, at):
    """The logits with one class more, which is masked, in the place `at`."""
    return torch.cat([logits[:, :at], torch.full((len(logits), 1), -torch.inf).to(logits), logits[:, at:]], 1)


@pytest.mark.parametrize("k", [2, 3, 4, 5])
@pytest.mark.parametrize("at", [0, 1, -1])
@pytest.mark.parametrize("name", [*PAIRS, *SINGLES])
def test_a_masked_class_is_as_one_that_is_absent(name, at, k):
    """Values and gradients, in float64."""
    at = k if at == -1 else at
    a, b = LOGITS[:, :k].double(), LOGITS[:, :k].flip(0).double() * 2
    y = Y % k
    found = []
    for masked in (False, True):
        leaves = [z.clone().requires_grad_() for z in (a, b)]
        first, second = ((with_masked(z, at) if masked else z) for z in leaves)
        label = y + (y >= at) if masked else y
        value = PAIRS[name](first, second) if name in PAIRS else SINGLES[name](first, label)
        gradients = torch.autograd.grad(value.sum(), leaves[: 2 if name in PAIRS else 1])
        found.append([value.detach(), *gradients])
    for absent, masked in zip(*found, strict=True):
        assert masked.isfinite().all()
        torch.testing.assert_close(masked, absent, rtol=1e-12, atol=1e-14)


def test_a_class_masked_in_one_of_two_distributions():
    """Where only the reference lacks the class it adds nothing; where only the other does, the divergence is inf."""
    whole, lacking = LOGITS.double(), LOGITS.double().masked_fill(torch.arange(5) == 2, -torch.inf)
    p, q = lacking.softmax(1), whole.softmax(1)
    torch.testing.assert_close(kl_divergence(whole, lacking), torch.tensor(entropy(p.numpy(), q.numpy(), axis=1)))
    assert kl_divergence(lacking, whole).isposinf().all()
    assert symmetric_kl(lacking, whole).isposinf().all()
    middle = (p + q) / 2
    expected = (entropy(p.numpy(), middle.numpy(), axis=1) + entropy(q.numpy(), middle.numpy(), axis=1)) / 2
    torch.testing.assert_close(js_divergence(lacking, whole), torch.tensor(expected))


def test_the_runners_up_leave_out_the_label_and_masked_classes():
    inf = torch.inf
    logits = torch.tensor([[3, -inf, 1, 2], [-inf, 0, -inf, 5], [-inf, -inf, 7, -inf], [-inf, -1e30, -inf, 0]])
    y = torch.tensor([0, 3, 2, 0])  # the last one's label is masked itself
    found = runners_up(logits, y, 3)
    assert found[0].tolist() == [3, 2, 3]
    assert found[1].tolist() == [1, 1, 1]
    assert (found[2] != 2).all()  # nothing is left but masked classes
    assert found[3].tolist() == [3, 1, 3]
    assert distinct(found[[0, 1, 3]]).tolist() == [2, 1, 2]
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert torch.equal(runners_up(logits[:2].to(dtype), y[:2], 3), found[:2])
