"""Helper-based adversarial training against what the authors' code computed, in float64."""

from typing import Any

import pytest
import torch
from torch import nn

from lightning_robust.attacks import PGD
from lightning_robust.defenses import HAT, TRADES
from lightning_robust.threat import Threat
from lightning_robust.types import Batch
from tests.helpers.few import plain_net
from tests.helpers.second_ring import RING, assert_same_step, batch, of, recorded, replayed


def made(name: str) -> HAT:
    record = RING[name]
    h = record["hparams"]
    net = recorded(record["base"])
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and "bn_momentum" in record:
            module.momentum = record["bn_momentum"]
    given: dict[str, Any] = {"attack": replayed(record), "attack_bn": "batch" if name == "hat_wa" else "eval"}
    return HAT(net, recorded(record["helper"]), h["beta"], h["gamma"], h["h"], **given)


@pytest.mark.parametrize("name", ["hat", "hat_wa"])
def test_step(name: str) -> None:
    record, defense = RING[name], made(name)
    assert torch.equal(defense.generate(batch()).more["teacher"].argmax(1), record["y_help"])
    assert_same_step(defense, record, smoothing=record["hparams"].get("label_smoothing", 0.0))


def test_the_optimizers_step() -> None:
    """Of the sum of the authors' two backward passes."""
    record = RING["hat_wa"]
    h = record["hparams"]
    defense = made("hat_wa")
    keys = ("lr", "weight_decay", "momentum", "nesterov")
    optimizer = torch.optim.SGD(defense.net.parameters(), **{key: h[key] for key in keys})
    assert_same_step(defense, record, smoothing=h["label_smoothing"])
    optimizer.step()
    for name, value in defense.net.named_parameters():
        torch.testing.assert_close(value.data, of(record, "params_after")[name].double(), rtol=1e-9, atol=1e-11)


X, Y = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
SOFT = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)).softmax(1)


@pytest.mark.parametrize("y", [Y, SOFT], ids=["hard", "soft"])
def test_without_the_helper_it_is_trades(y: torch.Tensor) -> None:
    net, attack = plain_net(), PGD(Threat(eps=0.1), steps=2, start="normal")
    hat = HAT(net, plain_net(seed=3), gamma=0.0, beta=6.0, attack=attack)
    views = hat.generate(Batch(X, y))
    trades = TRADES(net, attack=attack).loss(Batch(X, y), views)
    torch.testing.assert_close(hat.loss(Batch(X, y), views).total, trades.total)
    assert hat.loss(Batch(X, y), views).parts["helped"].min() > 0


def test_a_negative_gamma_is_refused() -> None:
    with pytest.raises(ValueError, match=r"HAT needs gamma >= 0, got -1\.0"):
        HAT(plain_net(), plain_net(seed=3), gamma=-1.0, attack=PGD(start="normal"))
