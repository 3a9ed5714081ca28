"""Soft labels [b k] in attacks: one-hot ones change nothing, others are ascended or stand for their likeliest class."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lightning_robust.attacks import APGD, PGD, Attack
from lightning_robust.attacks.functional import squeeze
from lightning_robust.losses import (
    boosted_cross_entropy,
    cross_entropy,
    dlr,
    label_logit,
    margin,
    probability_margin,
    targeted_dlr,
)
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from tests.helpers.each_attack import EACH
from tests.helpers.toys import conv_net

X = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3, 1, 0])
SOFT = torch.rand(6, 4, generator=torch.Generator().manual_seed(1)).softmax(1)
MORE = {
    "restarts": PGD(steps=2, restarts=2),
    "random targets": PGD(steps=2, targeted=True, random_targets=4),
    "margin": PGD(steps=2, loss="margin"),
    "l1": APGD(Threat("l1", 3.0), steps=4),
}


@pytest.mark.parametrize("attack", [*EACH.values(), *MORE.values()], ids=[*EACH, *MORE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_hot_labels_give_the_examples_of_class_numbers(attack: Attack, dtype: torch.dtype) -> None:
    net, x = conv_net().to(dtype), X.to(dtype)
    hard = attack(net, x, Y, rng=SampleRNG(0, Y))
    assert torch.equal(hard, attack(net, x, F.one_hot(Y, 4).to(dtype), rng=SampleRNG(0, Y)))
    if "soft labels" not in attack.uses:
        assert torch.equal(
            attack(net, x, SOFT, rng=SampleRNG(0, Y)), attack(net, x, SOFT.argmax(1), rng=SampleRNG(0, Y))
        )


@pytest.mark.parametrize("loss", [cross_entropy, label_logit, margin, dlr, boosted_cross_entropy, probability_margin])
def test_one_hot_labels_give_the_losses_and_gradients_of_class_numbers(loss: object) -> None:
    def both(logits: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = logits.clone().requires_grad_()
        value = loss(z, y)  # type: ignore[operator]
        grad = torch.autograd.grad(value.sum(), z)[0] if value.requires_grad else torch.zeros_like(z)
        return value, grad

    for logits in (torch.randn(6, 4), 30 * torch.randn(6, 4), torch.randn(6, 4).double()):
        for soft, hard in zip(both(logits, F.one_hot(Y, 4).float()), both(logits, Y), strict=True):
            assert torch.equal(soft, hard)
    assert torch.equal(targeted_dlr(logits, F.one_hot(Y, 4).float(), (Y + 1) % 4), targeted_dlr(logits, Y, (Y + 1) % 4))


def test_the_cross_entropy_of_soft_labels_is_torchs_and_masked_classes_do_not_count() -> None:
    logits = torch.randn(6, 4)
    torch.testing.assert_close(cross_entropy(logits, SOFT), F.cross_entropy(logits, SOFT, reduction="none"))
    masked = torch.cat([logits, torch.full((6, 1), -torch.inf)], 1).requires_grad_()
    value = cross_entropy(masked, F.pad(SOFT, (0, 1)))
    torch.testing.assert_close(value, cross_entropy(logits, SOFT))
    assert torch.autograd.grad(value.sum(), masked)[0].isfinite().all()


@pytest.mark.parametrize("make", [lambda t: PGD(t, steps=1, step_size=t.eps, start="none"), lambda t: APGD(t, steps=1)])
def test_the_first_step_follows_the_gradient_of_the_soft_cross_entropy(make: object) -> None:
    net, threat = conv_net().double().eval(), Threat(eps=0.01)
    z = X.double().requires_grad_()
    logits = net(z)
    soft = (F.one_hot(logits.argmax(1), 4) + SOFT.double()) / 2  # rightly classified, or APGD leaves them as they are
    F.cross_entropy(logits, soft, reduction="sum").backward()
    step = {"start": X.double()} if isinstance(make(threat), APGD) else {}  # type: ignore[operator]
    x_adv = make(threat)(net, X.double(), soft, **step)  # type: ignore[operator]
    torch.testing.assert_close(x_adv, (X.double() + 0.01 * z.grad.sign()).clamp(0, 1))


@pytest.mark.parametrize("bn", ["eval", "batch"])
def test_squeeze_takes_soft_labels(bn: Any) -> None:
    pair = []
    for y in (Y, F.one_hot(Y, 4).float(), SOFT):
        torch.manual_seed(0)  # of the net's dropout
        pair.append(squeeze(conv_net(), X, y, Threat(eps=0.1), steps=3, step_size=0.03, bn=bn, rng=SampleRNG(0, Y)))
    assert all(torch.equal(a, b) for a, b in zip(pair[0], pair[1], strict=True))
    net = conv_net().eval()
    adv, col = (cross_entropy(net(x), SOFT).mean() for x in pair[2])
    assert adv > col
