"""N-FGSM's noise and step, and that what leaves the ball serves training alone."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_robust.attacks import NFGSM, PGD, Ensemble, Transfer
from lightning_robust.callbacks import AdversarialInputs, RobustEvaluation
from lightning_robust.defenses import AT, IAAT, MART, ST, TRADES, FreeAT
from lightning_robust.threat import Norm, Threat
from lightning_robust.types import Batch
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, plain_net

X, Y = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double(), torch.arange(6) % 2


class Linear(nn.Module):
    """Logits w x and -w x, whose cross-entropy grows along -w for the label 0 and along w for 1."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(1)).double())

    def forward(self, x: Tensor) -> Tensor:
        z = (x * self.w).sum((1, 2, 3))
        return torch.stack([z, -z], 1)


@pytest.mark.parametrize("step_size", [None, 0.03])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_step_from_a_given_point_is_not_projected(norm: Norm, step_size: float | None) -> None:
    net, eps = Linear(), 0.05
    start = (X + torch.linspace(-0.3, 0.3, 16).view(1, 4, 4)).clamp(0, 1)
    up = net.w.detach() * (2 * Y - 1).view(-1, 1, 1, 1)
    direction = up.sign() if norm == "linf" else up / net.w.detach().norm()
    ours = NFGSM(Threat(norm, eps), step_size=step_size)(net, X, Y, start=start)
    torch.testing.assert_close(ours, (start + (step_size or eps) * direction).clamp(0, 1))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("noise", [0.0, 1.0, 3.0])
def test_examples_leave_the_ball_by_the_noise_at_most(norm: Norm, noise: float) -> None:
    eps = {"linf": 0.02, "l2": 0.1, "l1": 0.4}[norm]
    threat = Threat(norm, eps)
    x = X.repeat(20, 1, 1, 1)
    x_adv = NFGSM(threat, noise=noise)(Linear(), x, Y.repeat(20))
    size = threat.distance(x_adv, x)
    assert size.max() <= (noise + 1) * eps + 1e-9
    assert size.max() > (0.8 if noise == 0 else 0.9 * max(noise, 1.0)) * eps
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@pytest.mark.parametrize("step_size", [None, 0.03])
def test_without_a_radius_nothing_moves(step_size: float | None) -> None:
    assert torch.equal(NFGSM(Threat(eps=0.1), step_size=step_size).with_eps(0.0)(Linear(), X, Y), X)


def test_a_given_step_keeps_its_proportion_to_the_radius() -> None:
    assert NFGSM(Threat(eps=0.1), step_size=0.08).with_eps(0.05).step_size == pytest.approx(0.04)


@pytest.mark.parametrize("method", [AT, TRADES, MART])
def test_methods_train_on_it(method: Any) -> None:
    attack = NFGSM(Threat(eps=0.05))
    defense = method(plain_net(), attack=attack)
    views = defense.generate(Batch(X.float(), Y))
    assert 0.05 < (views.adv - X.float()).abs().max() <= 0.15 + 1e-6
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(defense, Few())
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert str(defense.trained_at) == "linf 0.05"  # what it becomes robust to, and is evaluated at


def test_any_module_trains_on_it() -> None:
    assert AdversarialInputs(NFGSM(Threat(eps=0.05))).attack.threat.eps == 0.05


@pytest.mark.parametrize("method", [IAAT, ST, FreeAT])
def test_methods_that_stay_within_radii_refuse_it(method: Any) -> None:
    with pytest.raises(ValueError, match=f"{method.__name__} moves its examples .* is NFGSM: set it to PGD"):
        method(plain_net(), attack=NFGSM())


@pytest.mark.parametrize(
    "attack", [NFGSM(), Ensemble({"a": PGD(), "b": NFGSM()}), Transfer(NFGSM(), plain_net())], ids=["it", "in", "from"]
)
def test_an_evaluation_refuses_it(attack: Any) -> None:
    with pytest.raises(ValueError, match=r"The attack 'mine' .* is for training alone: its examples leave the radius"):
        RobustEvaluation({"pgd": PGD(), "mine": attack})


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: NFGSM(noise=-1), "noise must be >= 0, in units of the radius, got -1"),
        (lambda: NFGSM(step_size=0), "step_size must be > 0"),
        (lambda: NFGSM().with_steps(2), "NFGSM takes one step, got 2"),
        (lambda: TRADES(plain_net(), attack=NFGSM(noise=0)), "has no gradient at the clean image"),
    ],
)
def test_what_it_cannot_be_is_told(make: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()
