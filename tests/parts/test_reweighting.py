"""MAIL's weights against the formula in numpy."""

import numpy as np
import pytest
import torch

from lightning_robust.losses import probability_margin
from lightning_robust.parts.reweighting import MarginWeights

LOGITS = 3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
Y = torch.cat([LOGITS[:3].argmax(1), LOGITS[3:].argmin(1)])  # three right, three wrong


def margins() -> list[float]:
    found = []
    for row, y in zip(LOGITS.double().numpy(), Y.tolist(), strict=True):
        p = np.exp(row) / np.exp(row).sum()
        found.append(np.delete(p, y).max() - p[y])
    return found


def test_the_margin_is_that_of_the_probabilities() -> None:
    np.testing.assert_allclose(probability_margin(LOGITS, Y).numpy(), margins(), rtol=1e-5)
    assert (probability_margin(LOGITS, Y) > 0).tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize(("bias", "slope"), [(-0.5, 10.0), (0.0, 2.0), (0.05, 5.0)])
def test_the_weights_are_those_of_the_formula(bias: float, slope: float) -> None:
    logits = LOGITS.clone().requires_grad_()
    weights = MarginWeights(bias, slope, start_epoch=3)(logits, Y, epoch=3)
    assert not weights.requires_grad
    np.testing.assert_allclose(weights.numpy(), 3 / (1 + np.exp(-slope * (np.array(margins()) + bias))), rtol=1e-5)


def test_until_the_start_epoch_all_samples_count_the_same() -> None:
    weigh = MarginWeights(start_epoch=2)
    for epoch in (0, 1):
        assert torch.equal(weigh(LOGITS, Y, epoch), torch.ones(6))
    assert not torch.equal(weigh(LOGITS, Y, 2), torch.ones(6))


def test_half_precision_logits_are_weighed_in_single() -> None:
    half = LOGITS.to(torch.bfloat16)
    torch.testing.assert_close(
        MarginWeights(start_epoch=0)(half, Y, 0), MarginWeights(start_epoch=0)(half.float(), Y, 0), rtol=0, atol=0
    )


def test_a_slope_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="slope must be > 0, got 0"):
        MarginWeights(slope=0)
