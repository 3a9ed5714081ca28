"""A class whose logit is -inf counts as absent, and a logit that is NaN is an error that names the sample."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_robust.attacks import (
    APGD,
    CW,
    DDN,
    FAB,
    FMN,
    PDPGD,
    PGD,
    Attack,
    DeepFool,
    Ensemble,
    HopSkipJump,
    Square,
    SuperDeepFool,
)
from lightning_robust.attacks.functional import minimum_norms
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from tests.helpers.each_attack import each
from tests.helpers.toys import conv_net

X = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
EPS: dict[Any, float] = {"linf": 0.05, "l2": 0.5, "l1": 4.0}
AS_ABSENT: dict[str, Attack] = {
    f"{name} {norm}": attack
    for norm in ("linf", "l2", "l1")
    for threat in [Threat(norm, EPS[norm])]  # type: ignore[arg-type]
    for name, attack in {
        "pgd": PGD(threat, steps=5),
        "pgd dlr": PGD(threat, steps=5, loss="dlr"),
        "pgd label_logit": PGD(threat, steps=5, loss="label_logit"),
        "pgd margin": PGD(threat, steps=5, loss="margin"),
        "apgd dlr": APGD(threat, steps=10, loss="dlr"),
        "apgd-t": APGD(threat, steps=10, targets=9, restarts=2),
        "square": Square(threat, queries=30),
        "fab": FAB(threat, steps=5),
        "fab-t": FAB(threat, steps=5, targets=9, restarts=2),
        "deepfool": DeepFool(threat, steps=5) if norm != "l1" else None,
        "fmn": FMN(threat, steps=10),
        "pdpgd": PDPGD(threat, steps=20, step_size=0.02),
        "ddn": DDN(threat, steps=20, first=0.1) if norm == "l2" else None,
        "sdf": SuperDeepFool(threat, steps=3) if norm == "l2" else None,
        "cw": CW(threat, steps=20, search_steps=3, lr=0.05) if norm == "l2" else None,
        "ensemble": Ensemble(
            {"ce": APGD(threat, steps=5), "t": APGD(threat, steps=5, targets=9), "fab-t": FAB(threat, 3)}
        ),
    }.items()
    if attack is not None
}


class Masked(nn.Module):
    """A net with one class more, whose logit is -inf: in the place `at`, by filling in or by adding."""

    def __init__(self, net: nn.Module, at: int, add: bool) -> None:
        super().__init__()
        self.net = net
        self.at = at
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.net(x)
        z = torch.cat([z[:, : self.at], z.mean(1, keepdim=True), z[:, self.at :]], 1)
        mask = torch.arange(z.shape[1]) == self.at
        if self.add:
            return z + torch.zeros(len(mask), dtype=z.dtype).masked_fill(mask, -torch.inf)
        return z.masked_fill(mask, -torch.inf)


class Pick(nn.Module):
    """Leaves some of the classes."""

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, z: Tensor) -> Tensor:
        return z[:, self.keep]


@pytest.mark.parametrize(("at", "add", "k"), [(4, False, 4), (0, True, 4), (1, True, 3), (2, False, 2)])
@pytest.mark.parametrize("attack", AS_ABSENT.values(), ids=AS_ABSENT)
def test_a_masked_class_is_as_one_that_is_absent(attack: Attack, at: int, add: bool, k: int) -> None:
    net = conv_net(k).double().eval()
    y = net(X).argmax(1)
    absent = attack(net, X, y, rng=SampleRNG(0, torch.arange(12)))
    masked = attack(Masked(net, at, add), X, y + (y >= at), rng=SampleRNG(0, torch.arange(12)))
    torch.testing.assert_close(masked, absent, atol=1e-7, rtol=0)
    assert not torch.equal(absent, X)


def test_classes_may_be_masked_in_some_samples_only() -> None:
    """Each sample is attacked as it would be alone, with as many targets as it has classes."""
    net = conv_net(6).double().eval()
    rows = torch.arange(12)
    gone = (rows[:, None] % 4 == 0) & (torch.arange(6) > 2) | (rows[:, None] % 4 == 1) & (torch.arange(6) == 5)

    def masked(z: Tensor) -> Tensor:
        row = torch.cdist(z.detach().flatten(1), X.flatten(1)).argmin(1)
        out: Tensor = net(z).masked_fill(gone[row], -torch.inf)
        return out

    y = masked(X).argmax(1)
    for attack in (APGD(Threat("l2", 0.4), steps=8, targets=5), FAB(Threat("l2", 0.4), steps=5, targets=5)):
        whole = attack(masked, X, y, rng=SampleRNG(0, rows))
        for i in (0, 1, 2):
            one = rows == i
            keep = ~gone[i]
            label = keep.cumsum(0)[y[one]] - 1

            alone = attack(nn.Sequential(net, Pick(keep)), X[one], label, rng=SampleRNG(0, rows[one]))
            torch.testing.assert_close(whole[one], alone, atol=1e-7, rtol=0)


def test_without_another_class_nothing_is_found() -> None:
    """A sample with a single class left stands, and its image stays an image."""
    net = conv_net(3).double().eval()

    def only(z: Tensor) -> Tensor:
        return net(z).masked_fill(torch.tensor([False, True, True]), -torch.inf)

    y = torch.zeros(12, dtype=torch.long)
    for attack in AS_ABSENT.values():
        x_adv = attack(only, X, y, rng=SampleRNG(0, torch.arange(12)))
        assert x_adv.isfinite().all()
        assert (attack.threat.distance(x_adv, X) <= attack.threat.eps + 1e-6).all()
    for search in (FAB(steps=3), FAB(steps=3, targets=2), DeepFool(steps=3), CW(steps=3, search_steps=2)):
        assert minimum_norms(search, only, X, y).isposinf().all()


class NaNFrom(nn.Module):
    """A net whose logits become NaN at the n-th forward pass, on the images like `bad`."""

    def __init__(self, bad: Tensor, n: int, value: float = torch.nan) -> None:
        super().__init__()
        self.net = conv_net().eval()
        self.bad = bad
        self.left = n
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        out: Tensor = self.net(x)
        near = (x - self.bad).flatten(1).norm(dim=1) < 1
        return out.masked_fill((near & (self.left <= 0))[:, None] & (torch.arange(4) == 2), self.value)


@each
@pytest.mark.parametrize("passes", [1, 2])
def test_nan_logits_are_an_error_that_names_the_sample(attack: Attack, passes: int) -> None:
    if isinstance(attack, HopSkipJump) and passes > 1:
        pytest.skip("its first points lie far from the image")
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    y = conv_net().eval()(x).argmax(1)
    with pytest.raises(ValueError, match=r"NaN or \+inf on 1 of the batch's 4 samples, .* \(rows 3\)"):
        attack(NaNFrom(x[3], passes), x, y, eps=0.05)


def test_nan_in_a_later_batch_of_an_ensemble() -> None:
    x = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    y = conv_net().eval()(x).argmax(1)
    with pytest.raises(ValueError, match=r"of the batch's 9 samples, .* \(rows 7\)"):
        Ensemble({"pgd": PGD(steps=1)}, batch_size=2)(NaNFrom(x[7], 1), x, y)


def test_plus_infinity_is_refused_on_clean_images_alone() -> None:
    """Within the attack it is a success: its class is the net's answer."""
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    y = conv_net().eval()(x).argmax(1).clamp_max(1)
    with pytest.raises(ValueError, match=r"NaN or \+inf"):
        APGD(steps=3)(NaNFrom(x[3], 1, torch.inf), x, y)
    assert NaNFrom(x[3], 0, torch.inf)(APGD(steps=3)(NaNFrom(x[3], 2, torch.inf), x, y)).argmax(1)[3] == 2


def test_where_reading_waits_nan_is_told_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: an attack's first call tells it when all is done, and of the later ones nothing is read."""
    for module in ("base", "entrance"):
        monkeypatch.setattr(f"lightning_robust.attacks.{module}.reading_is_free", lambda x: False)
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    y = conv_net().eval()(x).argmax(1)
    attack = PGD(steps=3)
    with pytest.raises(ValueError, match="became NaN during the attack: check its weights"):
        attack(NaNFrom(x[3], 2), x, y)
    attack(conv_net(), x, y)
    attack(NaNFrom(x[3], 2), x, y)
