import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms.functional import normalize

from lightning_robust.models import FeedForwardNet, Normalize, SmallConvNet, StridedConvNet, normalized

MEAN, STD = (0.49, 0.48, 0.44), (0.2, 0.19, 0.21)
X = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_normalize_equals_torchvision():
    torch.testing.assert_close(Normalize(MEAN, STD)(X), normalize(X, MEAN, STD))


@pytest.mark.parametrize(("name", "layer"), [("relu", nn.ReLU), ("silu", nn.SiLU), ("softplus", nn.Softplus)])
def test_the_small_net_takes_an_activation(name, layer):
    net = SmallConvNet(activation=name)
    assert sum(isinstance(part, layer) for part in net.modules()) == 3
    with pytest.raises(ValueError, match="Unknown activation 'rellu'"):
        SmallConvNet(activation="rellu")


def test_normalisation_is_no_state():
    """Weight files of a net do not depend on which pixels' statistics it was built with."""
    layer = Normalize(MEAN, STD)
    assert not layer.state_dict()
    assert not list(layer.parameters())
    assert layer.double()(X.double()).dtype == torch.float64
    SmallConvNet(in_channels=3, mean=MEAN, std=STD).load_state_dict(SmallConvNet(in_channels=3).state_dict())


def test_normalized_puts_the_layer_in_front():
    net = nn.Conv2d(3, 2, 3)
    torch.testing.assert_close(normalized(net, MEAN, STD)(X), net(normalize(X, MEAN, STD)))


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5, 0.5)), ((0.5,), (0.0,)), ((0.5,), (-1.0,))])
def test_bad_statistics_are_refused(mean, std):
    with pytest.raises(ValueError, match="equally long and std > 0, got"):
        Normalize(mean, std)


@pytest.mark.parametrize("pixels", [8, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_conv_net_fits_all_image_sizes(pixels, channels):
    net = SmallConvNet(num_classes=7, in_channels=channels, width=4)
    assert net(torch.rand(2, channels, pixels, pixels)).shape == (2, 7)


def test_small_conv_net_computes_what_it_says():
    net = SmallConvNet(num_classes=5, in_channels=3, width=4, mean=MEAN, std=STD)
    net(X)  # move the running statistics
    net.eval()
    z, parts = normalize(X, MEAN, STD), dict(net.named_parameters()) | dict(net.named_buffers())
    for layer, stride in ((0, 1), (3, 2), (6, 2)):
        z = F.conv2d(z, parts[f"features.{layer}.weight"], stride=stride, padding=1)
        mean, var, weight, bias = (
            parts[f"features.{layer + 1}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
        )
        z = F.relu(
            (z - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * weight[:, None, None] + bias[:, None, None]
        )
    logits = z.mean((2, 3)) @ parts["head.weight"].T + parts["head.bias"]
    torch.testing.assert_close(net(X), logits, rtol=1e-4, atol=1e-5)


def test_small_conv_net_evaluates_each_sample_alone_and_trains_every_parameter():
    net = SmallConvNet(in_channels=3, width=4)
    before = copy.deepcopy(net.state_dict())
    F.cross_entropy(net(X), torch.arange(4)).backward()
    assert all((p.grad != 0).any() for p in net.parameters())
    assert not torch.equal(net.state_dict()["features.1.running_mean"], before["features.1.running_mean"])
    net.eval()
    torch.testing.assert_close(net(X)[2:3], net(X[2:3]))


def test_strided_conv_net_computes_what_it_says():
    net = StridedConvNet(num_classes=5, in_channels=3, image_size=16, width=4, hidden=6, mean=MEAN, std=STD)
    z, parts = normalize(X, MEAN, STD), dict(net.named_parameters())
    for layer in (0, 2):
        weight, bias = (parts[f"features.{layer}.{name}"] for name in ("weight", "bias"))
        z = F.relu(F.conv2d(z, weight, bias, stride=2, padding=1))
    hidden = F.relu(z.flatten(1) @ parts["head.0.weight"].T + parts["head.0.bias"])
    torch.testing.assert_close(net(X), hidden @ parts["head.2.weight"].T + parts["head.2.bias"], rtol=1e-4, atol=1e-5)


def test_strided_conv_net_is_that_of_the_paper_by_default():
    net = StridedConvNet()
    assert sum(p.numel() for p in net.parameters()) == 166_406
    assert [tuple(p.shape) for p in net.parameters() if p.ndim > 1] == [
        (16, 1, 4, 4),
        (32, 16, 4, 4),
        (100, 32 * 7 * 7),
        (10, 100),
    ]


@pytest.mark.parametrize("size", [2, 30])
def test_strided_conv_net_refuses_images_that_do_not_divide(size):
    with pytest.raises(ValueError, match=f"multiple of 4 pixels, got image_size {size}"):
        StridedConvNet(image_size=size)


@pytest.mark.parametrize("hidden", [(), (6,), (6, 7)])
def test_feed_forward_net_computes_what_it_says(hidden):
    net = FeedForwardNet(num_classes=5, in_channels=3, image_size=16, hidden=hidden, mean=MEAN, std=STD)
    z, parts = normalize(X, MEAN, STD).flatten(1), dict(net.named_parameters())
    for layer in range(len(hidden)):
        z = F.relu(z @ parts[f"features.{1 + 2 * layer}.weight"].T + parts[f"features.{1 + 2 * layer}.bias"])
    torch.testing.assert_close(net(X), z @ parts["head.weight"].T + parts["head.bias"], rtol=1e-4, atol=1e-5)
    assert len(parts) == 2 * (len(hidden) + 1)
