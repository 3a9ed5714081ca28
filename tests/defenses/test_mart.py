"""MART by hand in numpy."""

from typing import Any

import numpy as np
import pytest
import torch

from lightning_robust.defenses import MART
from lightning_robust.parts.reweighting import MarginWeights
from lightning_robust.types import Batch, Views
from tests.helpers.few import plain_net
from tests.helpers.foreign import images
from tests.helpers.toys import finite_differences

X, Y = images(8).tensors
BATCH = Batch(X.double(), Y)
VIEWS = Views(images(8, seed=9).tensors[0].double())


def sharp() -> torch.nn.Sequential:
    """Confident outputs, so that every term counts."""
    net = plain_net(dtype=torch.float64)
    with torch.no_grad():
        net[3].weight *= 8
    return net


def terms(net: torch.nn.Module) -> tuple[Any, Any]:
    """The boosted cross-entropy and the weighted KL of each sample."""
    boosted, robust = [], []
    for i in range(8):
        p, p_adv = (torch.softmax(net(x[i : i + 1]), 1)[0].detach().numpy() for x in (BATCH.x, VIEWS.adv))
        y = int(Y[i])
        rival = max(p_adv[j] for j in range(3) if j != y)
        boosted.append(-np.log(p_adv[y]) - np.log(1.0001 - rival))
        robust.append(np.sum(p * np.log(p / p_adv)) * (1 - p[y]))
    return np.array(boosted), np.array(robust)


def test_the_loss_is_the_formula() -> None:
    net = sharp()
    boosted, robust = terms(net)
    losses = MART(net, beta=5.0).loss(BATCH, VIEWS)
    np.testing.assert_allclose(losses.parts["boosted"].detach().numpy(), boosted, rtol=1e-6)
    np.testing.assert_allclose(losses.parts["robust"].detach().numpy(), robust, rtol=1e-4)  # p is taken in single
    np.testing.assert_allclose(losses.total.detach().numpy(), boosted + 5 * robust, rtol=1e-5)
    wrong = (torch.softmax(net(VIEWS.adv), 1).argmax(1) != Y).tolist()
    assert len(set(wrong)) == 2  # the strongest rival is the first class for some and the second for others


def test_gradients_flow_through_the_weight_and_both_outputs() -> None:
    defense = MART(sharp(), beta=5.0)

    def loss() -> torch.Tensor:
        return defense.loss(BATCH, VIEWS).total.mean()

    gradient = torch.autograd.grad(loss(), list(defense.net.parameters()))
    expected = finite_differences(loss, defense.net.parameters(), h=3e-3)
    torch.testing.assert_close(list(gradient), expected, rtol=1e-2, atol=1e-3)


def test_a_reweighting_weighs_the_boosted_term_alone() -> None:
    net, weigh = sharp(), MarginWeights(0.05, 5.0, start_epoch=0)
    boosted, robust = terms(net)
    w = weigh(net(VIEWS.adv), Y, 0).numpy()
    total = MART(net, beta=5.0, reweighting=weigh).loss(BATCH, VIEWS).total
    np.testing.assert_allclose(total.detach().numpy(), w * boosted + 5 * robust, rtol=1e-5)


def test_a_negative_beta_is_refused() -> None:
    with pytest.raises(ValueError, match="MART needs beta >= 0, got -1"):
        MART(plain_net(), beta=-1)
