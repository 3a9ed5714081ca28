"""A class that the net masks with a logit of -inf counts as if it were not there."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_robust.attacks import PGD
from lightning_robust.defenses import ALP, ARD, AT, IAD, IKL, LBGAT, MART, RSLAD, SCORE, ST, TRADES, AdaAD
from lightning_robust.threat import Threat
from lightning_robust.types import Batch


class Masked(nn.Module):
    """A linear net of three classes, and a fourth of -inf where `masked`."""

    def __init__(self, seed: int, masked: bool) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear, self.masked = nn.Linear(12, 3).double(), masked

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.flatten(1))
        absent = logits.new_full((len(x), 1), -torch.inf)
        return torch.cat([logits, absent], 1) if self.masked else logits


def step(method: Any, masked: bool, **settings: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    given = {"teacher": Masked(1, masked)} if method in (ARD, IAD, LBGAT, RSLAD, AdaAD) else {}
    attack = PGD(Threat(eps=0.1), steps=3, start="normal")
    defense = method(Masked(0, masked), attack=attack, **given, **settings)
    torch.manual_seed(2)
    batch = Batch(torch.rand(5, 3, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0]), torch.arange(5))
    views = defense.generate(batch)
    loss = defense.loss(batch, views).total
    loss.sum().backward()
    return views.adv, loss.detach(), [p.grad for p in defense.net.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (AT, {}),
        (TRADES, {}),
        (MART, {}),
        (ST, {"attack_bn": "eval"}),
        (ALP, {}),
        (SCORE, {}),
        (SCORE, {"distance": "kl_root"}),
        (SCORE, {"distance": "js_root"}),
        (RSLAD, {}),
        (ARD, {"alpha": 0.5}),
        (IAD, {"alpha": 0.5, "begin": 0}),
        (AdaAD, {"alpha": 0.5}),
        (LBGAT, {"beta": 1.0}),
        (IKL, {}),
        (IKL, {"ascend": "loss"}),
        (IKL, {"gamma": 0.5}),
        (IKL, {"gamma": 0.0}),
    ],
)
def test_a_masked_class_is_as_absent(method: Any, settings: dict[str, Any]) -> None:
    with_it, without = step(method, True, **settings), step(method, False, **settings)
    for ours, theirs in zip(with_it, without, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert all(gradient.isfinite().all() for gradient in with_it[2])
