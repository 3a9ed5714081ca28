"""A foreign module becomes a net from pixels to logits, and an attack on it is the attack on its plain twin."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from lightning_robust.attacks import PGD, Square
from lightning_robust.attacks.functional import fab
from lightning_robust.models import normalized
from lightning_robust.runtime.adapter import NetAdapter
from lightning_robust.threat import Threat
from tests.helpers.toys import conv_net

MEAN, STD = [0.5, 0.25, 0.125], [0.25, 0.5, 0.125]  # powers of two: no rounding, so equal means equal
X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3])


class Foreign(nn.Module):
    """A module whose `forward` is something else than the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.model = conv_net()

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch["x"]), batch["y"])

    def predict_logits(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.model(x)}


def by_function(module: nn.Module, x: Tensor) -> Tensor:
    return module.model(x)


@pytest.mark.parametrize("forward", ["predict_logits", "model", "model.forward", by_function, None])
@pytest.mark.parametrize("attack", [PGD(Threat(eps=0.1), steps=3, start="none"), Square(Threat(eps=0.3), queries=5)])
def test_an_attack_is_that_on_the_plain_net_in_evaluation_mode(forward, attack):
    """Of a module in training mode that takes normalised images; the twin is torch's own way to write it."""
    foreign = Foreign()
    adapter = NetAdapter(foreign if forward else foreign.model, forward, MEAN, STD)
    twin = normalized(conv_net(), MEAN, STD).eval()
    before = copy.deepcopy(foreign.state_dict())
    torch.manual_seed(1)
    got = attack(adapter, X, Y)
    torch.manual_seed(1)
    assert torch.equal(got, attack(twin, X, Y))
    assert not torch.equal(got, X)
    assert foreign.training
    assert foreign.model.training
    assert all(torch.equal(value, before[name]) for name, value in foreign.state_dict().items())


def test_examples_go_back_to_what_the_module_takes():
    adapter = NetAdapter(conv_net().eval(), mean=MEAN, std=STD)
    normalised = (X - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(adapter.to_pixels(normalised), X)
    x_adv = fab(adapter, adapter.to_pixels(normalised), adapter(X).argmax(1), eps=0.5, steps=5)
    torch.testing.assert_close(adapter.module(adapter.from_pixels(x_adv)), adapter(x_adv))
    assert NetAdapter(conv_net()).to_pixels(X) is X


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 7), (5, 3, 2, 2, 2)])
def test_images_may_have_any_shape(shape):
    net = NetAdapter(nn.Flatten(), mean=MEAN, std=STD)
    x = torch.rand(shape)
    expected = torch.stack([(x[:, i] - MEAN[i]) / STD[i] for i in range(3)], 1).flatten(1)
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(NetAdapter(nn.Flatten(), mean=[0.5], std=[0.25])(x), (x.flatten(1) - 0.5) / 0.25)


def test_the_module_is_registered_and_not_copied():
    foreign = Foreign()
    adapter = NetAdapter(foreign, "predict_logits", MEAN, STD)
    assert adapter.module is foreign
    assert [id(p) for p in adapter.parameters()] == [id(p) for p in foreign.parameters()]
    assert adapter.state_dict().keys() == {f"module.{name}" for name in foreign.state_dict()}
    for other in (copy.deepcopy(adapter), pickle.loads(pickle.dumps(adapter))):
        other.module.model[8].weight.data.zero_()
        torch.testing.assert_close(other.eval()(X), other.module.model[8].bias.expand(4, 4))


def test_it_follows_the_images_type_and_may_be_made_in_inference_mode():
    net = conv_net().double()
    with torch.inference_mode():
        adapter = NetAdapter(net, mean=MEAN, std=STD)
    assert PGD(steps=1)(adapter, X.double(), Y).dtype == torch.float64


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"forward": "predict"}, TypeError, "Foreign has no method 'predict'"),
        ({"forward": 3}, TypeError, r"a function \(module, images\) -> logits or a method's name, got 3"),
        ({"mean": MEAN}, ValueError, "mean and std belong together"),
        ({"mean": MEAN, "std": [0.5]}, ValueError, "equally long and std > 0"),
        ({"mean": MEAN, "std": [0.5, 0.0, 0.5]}, ValueError, "equally long and std > 0"),
    ],
)
def test_what_makes_no_net_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        NetAdapter(Foreign(), **settings)


def test_images_with_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"for 3 channels, but the images are of shape \(4, 1, 8, 8\): give one value"):
        NetAdapter(nn.Flatten(), mean=MEAN, std=STD)(X[:, :1])
