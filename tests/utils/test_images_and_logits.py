import pytest
import torch

from lightning_robust.utils.images import check_images
from lightning_robust.utils.logits import check_logits

X, Y, LOGITS = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1]), torch.randn(4, 3)


def test_good_input_passes():
    check_images(X)
    check_images(torch.tensor([0.0, 1.0]))  # both walls of the box
    check_images(2 * X - 1, lower=-1.0)
    check_images(X.double())
    check_logits(LOGITS, Y, 3)
    check_logits(LOGITS.softmax(1).log(), Y)
    check_logits(LOGITS.masked_fill(torch.arange(3) == 2, -torch.inf), Y)  # a masked class


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ((255 * X).byte(), TypeError, r"got torch.uint8: convert them, e.g. with torchvision's ToDtype"),
        (X[:0], ValueError, r"holds no images \(shape \(0, 3, 8, 8\)\)"),
        (X / torch.zeros(()) * 0, ValueError, "contain NaN: look for a division by zero in the transforms"),
        (torch.tensor([-2.0, 2.5]), ValueError, r"range over \[-2, 2.5\]: leave normalisation to the net .*Normalize"),
        (255 * torch.tensor([0.0, 1.0]), ValueError, r"range over \[0, 255\].* divide bytes by 255"),
        (torch.tensor([-0.001, 1.0]), ValueError, r"range over \[-0.001, 1\]"),
        (torch.tensor([0.0, torch.inf]), ValueError, r"range over \[0, inf\]"),
    ],
)
def test_images(x, error, message):
    with pytest.raises(error, match=message):
        check_images(x)


@pytest.mark.parametrize(
    ("logits", "num_classes", "message"),
    [
        (LOGITS[:, 0], None, r"must give logits \[b k\] for 4 images, got shape \(4,\)"),
        (LOGITS[:3], None, r"for 4 images, got shape \(3, 3\)"),
        (LOGITS, 10, "gives 3 logits but the data has 10 classes: set the net's width to it"),
        (LOGITS[:, :2], None, "below the net's 2 outputs"),
        (LOGITS * torch.nan, None, "not finite on clean images: look at its weights and its input scale"),
        (LOGITS * torch.inf, None, "not finite on clean images"),
    ],
)
def test_logits(logits, num_classes, message):
    with pytest.raises(ValueError, match=message):
        check_logits(logits, Y, num_classes)


def test_probabilities_warn():
    with pytest.warns(UserWarning, match="look like probabilities .* remove the softmax"):
        check_logits(LOGITS.softmax(1) * 1.0005, Y)  # rounding: they do not sum to 1 exactly


def test_a_net_that_returns_a_tuple():
    with pytest.raises(TypeError, match=r"one tensor of logits \[b k\], got a tuple"):
        check_logits((torch.zeros(2, 3),), torch.tensor([0, 1]))
