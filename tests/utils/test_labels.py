import pytest
import torch

from lightning_robust.utils.labels import check_labels, hard_labels, smoothed

Y = torch.tensor([0, 1, 2, 1])
SOFT = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.2, 0.6, 0.2]])


@pytest.mark.parametrize("y", [Y, Y.to(torch.uint8), SOFT, SOFT.double(), torch.eye(3), Y[:0]])
def test_good_labels_pass(y):
    check_labels(y, 3)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (Y.float(), TypeError, r"class numbers \[b\] of integer type or .*, got torch.float32 of shape \(4,\)"),
        (Y > 0, TypeError, "got torch.bool"),
        (torch.eye(3, dtype=torch.long), TypeError, r"of shape \(3, 3\)"),
        (Y - 1, ValueError, r"at least 0 and below the net's 3 outputs, but range over \[-1, 1\]"),
        (Y + 1, ValueError, r"below the net's 3 outputs, but range over \[1, 3\]"),
        (SOFT[:, :2], ValueError, r"have 2 columns, but the net has 3 outputs"),
        (SOFT - 0.2, ValueError, "go down to -0.1 and a row sums to 0.4: apply a softmax to logits"),
        (SOFT.masked_fill(SOFT > 0.5, torch.nan), ValueError, "a row sums to nan"),
    ],
)
def test_labels(y, error, message):
    with pytest.raises(error, match=message):
        check_labels(y, 3)


def test_labels_without_a_width():
    check_labels(Y + 1000)
    with pytest.raises(ValueError, match=r"at least 0, but range over \[-1, 1\]"):
        check_labels(Y - 1)


def test_the_most_probable_class_is_the_hard_label():
    assert hard_labels(SOFT).tolist() == hard_labels(Y.to(torch.uint8)).tolist() == Y.tolist()


@pytest.mark.parametrize("k", [3, 5])
def test_smoothed_labels_give_torchs_smoothed_cross_entropy(k):
    logits, y = torch.randn(4, k, dtype=torch.float64), Y
    smooth = smoothed(y, k, 0.1, logits)
    ours = -(smooth * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(
        ours, torch.nn.functional.cross_entropy(logits, y, reduction="none", label_smoothing=0.1)
    )
    torch.testing.assert_close(smoothed(torch.nn.functional.one_hot(y, k).double(), k, 0.1, logits), smooth)
