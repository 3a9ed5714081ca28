"""Hypersphere embedding of AT, TRADES and ALP against what the authors' code computed, in float64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_robust.attacks import PGD
from lightning_robust.defenses import ALP, AT, ST, TRADES, Defense, Standard
from lightning_robust.models import Hypersphere, SmallConvNet
from lightning_robust.models.net_config import build_net
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Views
from tests.helpers.few import plain_net
from tests.helpers.second_ring import RING, assert_same_step, batch, of, recorded, replayed


def net(record: dict[str, Any], in_place: bool) -> Hypersphere:
    made = Hypersphere(recorded(record["base"]), record["hparams"]["s"], in_place).double()
    made.net.fc.weight.data.copy_(of(record, "fc_weight_before"))
    return made


def made(name: str, in_place: bool = True) -> Defense:
    record = RING[name]
    h = record["hparams"]
    given: dict[str, Any] = {"attack": replayed(record), "logit_margin": h["s"] * h["m"]}
    wrapped = net(record, in_place)
    if name == "he_pgd":
        return AT(wrapped, **given)
    if name == "he_trades":
        return TRADES(wrapped, beta=h["beta"], **given)
    return ALP(wrapped, beta=h["beta"] / h["s"] ** 2, **given)  # the authors pair the cosines, before they are scaled


METHODS = ["he_pgd", "he_trades", "he_alp"]


@pytest.mark.parametrize("name", METHODS)
def test_step(name: str) -> None:
    defense = made(name)
    assert_same_step(defense, RING[name], defense.net.net)
    torch.testing.assert_close(
        defense.net.net.fc.weight.data, of(RING[name], "fc_weight_after").double(), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("name", METHODS)
def test_by_default_gradients_are_orthogonal_to_the_weights(name: str) -> None:
    """They are the authors' without the part along the weight, over its length."""
    defense, record = made(name, in_place=False), RING[name]
    views = defense.generate(batch())
    torch.testing.assert_close(views.adv, of(record, "x_adv").double(), rtol=0, atol=1e-9)
    loss = defense.loss(batch(), views).total.mean()
    torch.testing.assert_close(loss, of(record, "loss").double(), rtol=1e-9, atol=0)
    loss.backward()
    for parameter, value in defense.net.net.named_parameters():
        theirs = of(record, "grads")[parameter].double()
        if parameter == "fc.weight":
            length = of(record, "fc_weight_before").double().norm(dim=1, keepdim=True)
            unit = of(record, "fc_weight_after").double()
            along = (theirs * unit).sum(1, keepdim=True) * unit
            assert along.norm() > 0.1 * theirs.norm()
            theirs = (theirs - along) / length
        torch.testing.assert_close(value.grad, theirs, rtol=1e-9, atol=1e-11, msg=parameter)


X, Y = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
SOFT = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)).softmax(1)


@pytest.mark.parametrize("method", [AT, TRADES, ALP, ST, Standard])
def test_the_margin_is_in_the_cross_entropy_alone(method: Any) -> None:
    """By torch's function, on hard and soft labels, for equal logits; the attack does not see it."""
    attack = PGD(Threat(eps=0.1), steps=2, start="normal")
    flat = plain_net()
    with torch.no_grad():
        for parameter in flat.parameters():
            parameter.mul_(0)
    for y in (Y, SOFT):
        views = Views(X, X)
        found = method(flat, attack=attack, logit_margin=2.0).loss(Batch(X, y), views).total
        label = y if y is SOFT else F.one_hot(y, 3).float()
        torch.testing.assert_close(found, F.cross_entropy(-2.0 * label, y, reduction="none"))
    net = plain_net()
    defenses = [method(net, attack=attack, logit_margin=m) for m in (0.0, 2.0)]
    plain, wide = (d.generate(Batch(X, Y)) for d in defenses)
    assert torch.equal(plain.adv, wide.adv)


def test_the_net_gives_cosines() -> None:
    inner = SmallConvNet(num_classes=5, in_channels=1)
    features: list[Tensor] = []
    wrapped = Hypersphere(inner, scale=3.0)
    inner.head.register_forward_hook(lambda module, given, out: features.append(given[0]))
    found = wrapped(torch.rand(4, 1, 8, 8))
    expected = 3 * torch.cosine_similarity(features[0][:, None], inner.head.weight[None], dim=2)
    torch.testing.assert_close(found, expected)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="replaces a net's last linear layer, but Conv2d has none"):
        Hypersphere(torch.nn.Conv2d(1, 2, 3))
    with pytest.raises(ValueError, match="scale must be > 0, got 0"):
        Hypersphere(plain_net(), scale=0)
    with pytest.raises(ValueError, match=r"logit_margin must be >= 0, got -1\.0"):
        AT(plain_net(), logit_margin=-1.0)


def test_its_description_builds_it_and_no_other_weights() -> None:
    """As the description in an export does."""
    inner = {"class_path": "SmallConvNet", "init_args": {"width": 4, "num_classes": 3}}
    built = build_net({"class_path": "Hypersphere", "init_args": {"net": inner, "scale": 5.0}})
    assert isinstance(built, Hypersphere)
    assert (built.net.head.scale, built.net.head.weight.shape) == (5.0, (3, 16))
    downloading = {"class_path": "TorchvisionModel", "init_args": {"name": "resnet18", "weights": "DEFAULT"}}
    for refused, message in (
        (downloading, "asks for other weights"),
        ({"class_path": "os.system"}, "asks for 'os.sys"),
    ):
        with pytest.raises(ValueError, match=message):
            build_net({"class_path": "Hypersphere", "init_args": {"net": refused}})
