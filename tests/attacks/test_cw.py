import foolbox
import pytest
import torch
from torch import nn

from lightning_robust.attacks import progress
from lightning_robust.attacks.cw import CW
from lightning_robust.attacks.minimum_norm import minimum_norms
from lightning_robust.losses import margin
from lightning_robust.threat import Threat
from tests.helpers.toys import conv_net, linear_distance, linear_net


def images(shape=(8, 3, 8, 8), low=0.0, high=1.0):
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("k", "dtype"), [(2, torch.float32), (3, torch.float64)])
def test_the_nearest_boundary_of_a_linear_net(k, dtype):
    """With more classes that of the highest logit, to which the attack goes, is not always the nearest."""
    weight = torch.randn(k, 12, generator=torch.Generator().manual_seed(5), dtype=dtype)
    net = linear_net(weight, torch.eye(k, dtype=dtype)[0] - weight.sum(1) / 2)
    x = images((8, 3, 2, 2), 0.3, 0.7).to(dtype)
    y = net(x).argmax(1)
    size = minimum_norms(CW(steps=100, search_steps=6, initial_c=0.1), net, x, y)
    best = linear_distance(net, x, y, "l2")
    assert size.dtype == dtype
    torch.testing.assert_close(size, best, rtol=0.02, atol=2e-3)
    assert (size > (1 - 1e-4) * best).all()


@pytest.mark.slow
def test_it_finds_what_foolbox_does():
    """The first c is too small, some of the last too large."""
    net, x = nn.Sequential(conv_net(), linear_net(10 * torch.eye(4))).eval(), images()
    y = net(x).argmax(1)
    theirs = foolbox.attacks.L2CarliniWagnerAttack(5, 60, 0.02, initial_const=0.01)
    x_adv = theirs.run(foolbox.PyTorchModel(net, (0, 1), device="cpu"), x, foolbox.criteria.Misclassification(y))
    ours = CW(steps=60, lr=0.02, search_steps=5, initial_c=0.01).nearest(net, x, y)
    assert (net(x_adv).argmax(1) != y).all()
    torch.testing.assert_close(Threat("l2").distance(ours, x), Threat("l2").distance(x_adv, x), rtol=0.05, atol=0)


@pytest.mark.slow
def test_an_example_has_the_margin_asked_for():
    net, x = conv_net().eval(), images()
    y = net(x).argmax(1)
    sizes = []
    for confidence in (0.0, 0.05):
        x_adv = CW(steps=70, lr=0.02, search_steps=4, initial_c=1.0, confidence=confidence).nearest(net, x, y)
        assert (margin(net(x_adv), y) >= confidence).all()
        sizes.append(Threat("l2").distance(x_adv, x))
    assert (sizes[0] < 0.8 * sizes[1]).all()


def test_listeners_hear_every_step_of_every_c():
    sure, heard = linear_net(torch.randn(2, 192), torch.tensor([900.0, 0.0])), []
    with progress.listen(lambda done, total: heard.append((done, total))):
        CW(steps=3, search_steps=2).nearest(sure, images(), torch.zeros(8, dtype=torch.long))
    assert heard[0] == (1, 6)
    assert {total for _, total in heard} == {6}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threat": Threat("linf")}, "got a threat in linf: use FMN"),
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"search_steps": 0}, "search_steps must be >= 1, got 0"),
        ({"lr": 0.0}, "lr must be > 0, got 0.0"),
        ({"initial_c": -1.0}, "initial_c must be > 0, got -1.0"),
        ({"confidence": -1.0}, "confidence must be >= 0, got -1.0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CW(**settings)
