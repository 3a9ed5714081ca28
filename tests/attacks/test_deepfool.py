import foolbox
import pytest
import torch
from torch import nn

from lightning_robust.attacks import progress
from lightning_robust.attacks.deepfool import DeepFool
from lightning_robust.attacks.minimum_norm import minimum_norms
from lightning_robust.threat import Threat
from tests.helpers.toys import conv_net, linear_distance, linear_net


def images(shape=(8, 3, 8, 8)):
    return torch.rand(shape, generator=torch.Generator().manual_seed(2))


class Waves(nn.Module):
    def forward(self, x):
        return torch.sin(3 * x)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_goes_where_foolbox_does(norm):
    """On images of which half the pixels are at the wall."""
    net, x = nn.Sequential(Waves(), conv_net()).eval(), (2 * images() - 0.5).clamp(0, 1)
    y = net(x).argmax(1)
    theirs = foolbox.attacks.LinfDeepFoolAttack() if norm == "linf" else foolbox.attacks.L2DeepFoolAttack()
    x_adv = theirs.run(foolbox.PyTorchModel(net, (0, 1), device="cpu"), x, foolbox.criteria.Misclassification(y))
    torch.testing.assert_close(DeepFool(Threat(norm)).nearest(net, x, y), x_adv, atol=1e-5, rtol=0)
    assert (net(x_adv).argmax(1) != y).all()


@pytest.mark.parametrize("overshoot", [0.0, 0.02, 0.3])
def test_it_goes_beyond_the_boundary_by_the_overshoot(overshoot):
    net = linear_net(torch.randn(4, 192, generator=torch.Generator().manual_seed(1)))
    x = 0.4 + 0.2 * images()
    y = net(x).argmax(1)
    size = minimum_norms(DeepFool(overshoot=overshoot), net, x, y)
    torch.testing.assert_close(size, (1 + overshoot) * (linear_distance(net, x, y, "l2") + 1e-4), rtol=1e-3, atol=0)


def test_listeners_hear_every_step():
    sure, heard = linear_net(torch.randn(2, 192), torch.tensor([900.0, 0.0])), []
    with progress.listen(lambda done, total: heard.append((done, total))):
        DeepFool(steps=2).nearest(sure, images(), torch.zeros(8, dtype=torch.long))
    assert heard == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"overshoot": -0.1}, "overshoot must be >= 0, got -0.1"),
        ({"candidates": 0}, "candidates must be >= 1, got 0"),
        ({"threat": Threat("l1")}, "got a threat in l1: use FMN"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DeepFool(**settings)
