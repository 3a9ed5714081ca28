"""WEISSI against its closed form."""

import pytest
import torch
from torch import nn

from lightning_robust.parts import LogWeightNorms
from lightning_robust.types import Batch, Views
from tests.helpers.few import norm_net

X, Y = torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 2])


def test_value_and_gradient() -> None:
    """The gradient of log ||W|| is W / ||W||^2; batch norms and biases have none."""
    net = norm_net().double()
    penalty = LogWeightNorms(0.5)(net, Batch(X, Y), Views(X), epoch=0)
    weights = [net[1].weight, net[4].weight]
    product = torch.stack([w.square().sum().sqrt() for w in weights]).prod()
    torch.testing.assert_close(penalty, (0.5 * product.log()).expand(3))
    penalty.mean().backward()
    for w in weights:
        torch.testing.assert_close(w.grad, 0.5 * w / w.square().sum())
    assert all(p.grad is None for p in net.parameters() if p.dim() < 2)


def test_weights_that_do_not_train_are_left_out() -> None:
    net = norm_net()
    net[1].weight.requires_grad_(False)
    penalty = LogWeightNorms(1.0)(net, Batch(X, Y), Views(X), epoch=0)
    torch.testing.assert_close(penalty[0], net[4].weight.norm().log())
    with pytest.raises(ValueError, match="BatchNorm2d has no weights of two dimensions or more that train"):
        LogWeightNorms()(nn.BatchNorm2d(1), Batch(X, Y), Views(X), epoch=0)
    with pytest.raises(ValueError, match=r"weight must be >= 0, got -1\.0"):
        LogWeightNorms(-1.0)
