import pytest
import torch
import torch.nn.functional as F
from jaxtyping import TypeCheckError
from scipy.special import log_softmax
from scipy.stats import entropy

from lightning_robust.losses import cross_entropy, dlr, kl_divergence, margin, runners_up, targeted_dlr

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
    assert F.cross_entropy(LOGITS, torch.softmax(LOGITS, 1)).dim() == 0  # torch itself takes soft labels
    with pytest.raises(TypeCheckError):
        cross_entropy(LOGITS, torch.softmax(LOGITS, 1))


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
