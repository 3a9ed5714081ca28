"""Max-Mahalanobis center loss against its formulas: the authors' code is for TensorFlow 1, and was not recorded."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_robust.attacks import PGD
from lightning_robust.attacks.named import named_attack
from lightning_robust.defenses import MMC
from lightning_robust.losses import label_logit
from lightning_robust.models import MaxMahalanobis, SmallConvNet
from lightning_robust.models.max_mahalanobis import max_mahalanobis_centres
from lightning_robust.models.net_config import build_net
from lightning_robust.parts import MarginWeights
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Views
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, centred, plain_net
from tests.helpers.toys import linear_net
from tests.helpers.trained import digits

X, Y = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double(), torch.arange(6) % 3
SOFT = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)).softmax(1).double()


def net(features: int = 5, scale: float = 2.0) -> MaxMahalanobis:
    return centred(plain_net(), scale, features).double()


@pytest.mark.parametrize("k", [2, 3, 10, 100])
@pytest.mark.parametrize("more", [-1, 0, 7])
def test_the_centres_are_those_of_the_authors_recursion(k: int, more: int) -> None:
    """craft_MMcenters.m of the reference, row by row; with one feature less than classes, without its last column."""
    expected = torch.zeros(k, k + more + 1, dtype=torch.float64)
    expected[0, 0] = 1
    for i in range(1, k):
        for j in range(i):
            expected[i, j] = -(1 / (k - 1) + expected[i] @ expected[j]) / expected[j, j]
        expected[i, i] = max(1 - float(expected[i].square().sum()), 0) ** 0.5
    found = max_mahalanobis_centres(k, k + more, scale=1.0)
    torch.testing.assert_close(found, expected[:, : k + more], rtol=0, atol=1e-7)  # their last entry is rounding
    gram = max_mahalanobis_centres(k, k + more, scale=10.0)
    inner = 100 * ((1 + 1 / (k - 1)) * torch.eye(k, dtype=torch.float64) - 1 / (k - 1))
    torch.testing.assert_close(gram @ gram.T, inner, rtol=0, atol=1e-11)


def test_logits_are_minus_the_squared_distances() -> None:
    made = net()
    seen: list[Tensor] = []
    head = made.net[-1]
    head.register_forward_hook(lambda module, given, out: seen.append(F.linear(given[0], head.weight, head.bias)))
    found = made(X)
    torch.testing.assert_close(found, -torch.cdist(seen[0], max_mahalanobis_centres(3, 5, 2.0)).square())
    assert not any("centres" in name for name in made.state_dict())


@pytest.mark.parametrize("y", [Y, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_the_squared_distance_and_its_gradients_are_finite_differences(y: Tensor, weighted: bool) -> None:
    reweighting = MarginWeights(0.1, 5.0, 0) if weighted else None
    defense = MMC(net(), attack=PGD(Threat(eps=0.1), steps=2), reweighting=reweighting)
    views = Views(X)

    def loss() -> Tensor:
        return defense.loss(Batch(X, y), views).total.mean()

    logits = defense(X)
    label = F.one_hot(y, 3) if y is Y else y
    weights = reweighting(logits, y, 0) if reweighting else 1.0
    torch.testing.assert_close(loss(), (weights * (-logits * label).sum(1)).mean())
    if weighted:  # weights are held constant, which no difference does
        return
    loss().backward()
    for parameter in defense.net.parameters():
        (index,) = parameter.grad.flatten().abs().argmax(keepdim=True).tolist()
        values, step = [], 1e-5
        for sign in (1, -1):
            with torch.no_grad():
                parameter.view(-1)[index] += sign * step
                values.append(float(loss()))
                parameter.view(-1)[index] -= sign * step
        slope = (values[0] - values[1]) / (2 * step)
        assert float(parameter.grad.flatten()[index]) == pytest.approx(slope, rel=1e-7)


def test_a_masked_class_counts_only_if_a_label_has_it() -> None:
    logits = torch.tensor([[-3.0, -1.0, -torch.inf], [-2.0, -4.0, -torch.inf]], requires_grad=True)
    for y in (torch.tensor([0, 1]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])):
        value = label_logit(logits, y)
        assert value.tolist() == [3.0, 4.0]
        assert torch.autograd.grad(value.sum(), logits)[0].isfinite().all()
    assert label_logit(logits, torch.tensor([2, 0])).tolist() == [torch.inf, 2.0]


def affine() -> tuple[MaxMahalanobis, Tensor, Tensor]:
    """A net whose features are affine in the pixels, with its features' weight [d n] and bias [d]."""
    made = MaxMahalanobis(linear_net(torch.zeros(3, 16, dtype=torch.float64)), 2.0, 2).double()
    with torch.no_grad():
        made.net[1].weight.copy_(torch.randn(2, 16, generator=torch.Generator().manual_seed(4)))
    return made, made.net[1].weight.detach(), made.net[1].bias.detach()


@pytest.mark.parametrize("targeted", [False, True])
def test_one_step_follows_the_distance_and_not_the_cross_entropy(targeted: bool) -> None:
    """Closed form of affine features: the gradient of `|W x + b - mu_y|^2` is `2 W^T (W x + b - mu_y)`."""
    made, weight, bias = affine()
    attack = PGD(
        Threat(eps=0.1, lower=-math.inf, upper=math.inf),
        steps=1,
        step_size=0.1,
        start="none",
        targeted=targeted,
        loss="label_logit",
    )
    mean = max_mahalanobis_centres(3, 2, 2.0)[Y]
    uphill = (2 * (X.flatten(1) @ weight.T + bias - mean) @ weight).view_as(X)
    found = attack(made, X, Y)
    torch.testing.assert_close(found, X + (-0.1 if targeted else 0.1) * uphill.sign())
    other = PGD(attack.threat, steps=1, step_size=0.1, start="none", targeted=targeted)
    assert not torch.equal(found, other(made, X, Y))


def test_training_attacks_are_adaptive() -> None:
    """By default away from the label; the paper's towards random other classes."""
    assert MMC(net()).attack.loss == "label_logit"  # type: ignore[attr-defined]
    attack = PGD(Threat(eps=0.1), steps=3, loss="label_logit", targeted=True, random_targets=3)
    defense = MMC(net(), attack=attack)
    views = defense.generate(Batch(X, Y))
    fallen = label_logit(defense(views.adv), Y) - label_logit(defense(X), Y)
    assert (fallen > 0).float().mean() > 0.5
    assert float((views.adv - X).abs().max()) <= 0.1 + 1e-12


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="10 equidistant centres do not fit into 8 features: set features to 9 or"):
        MaxMahalanobis(SmallConvNet(), features=8)
    with pytest.raises(ValueError, match="replaces a net's last linear layer, but Conv2d has none"):
        MaxMahalanobis(nn.Conv2d(1, 2, 3))
    with pytest.raises(ValueError, match="scale must be > 0, got -1"):
        MaxMahalanobis(plain_net(), scale=-1)
    with pytest.raises(ValueError, match="need two classes or more, got 1"):
        MaxMahalanobis(SmallConvNet(num_classes=1))
    with pytest.raises(ValueError, match="no least value in Sequential: give it MaxMahalanobis around the net"):
        MMC(plain_net())


def test_its_description_builds_it() -> None:
    """As the description in an export does, with the centres that no weights file holds."""
    inner = {"class_path": "SmallConvNet", "init_args": {"width": 4, "num_classes": 3}}
    built: Any = build_net({"class_path": "MaxMahalanobis", "init_args": {"net": inner, "features": 4}})
    assert built.net.head.weight.shape == (4, 16)
    torch.testing.assert_close(built.net.head.centres, max_mahalanobis_centres(3, 4).float())


def test_a_checkpoint_gives_it_back_around_a_net_of_other_weights(tmp_path: Path) -> None:
    made = MaxMahalanobis(plain_net(), 2.0, 4)
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(MMC(made, attack=PGD(Threat(eps=0.1), steps=2, loss="label_logit")), Few())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    other = MaxMahalanobis(plain_net(seed=7), 2.0, 4)
    back = MMC.load_from_checkpoint(tmp_path / "last.ckpt", net=other, weights_only=True)
    assert torch.equal(back(X.float()), made(X.float()))
    assert (back.attack.loss, back.attack.threat.eps) == ("label_logit", 0.1)  # type: ignore[attr-defined]


def test_half_precision_subtracts_in_fp32() -> None:
    made = net().float()
    with torch.autocast("cpu", torch.bfloat16):
        half = made(X.float())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, made(X.float()), rtol=0.05, atol=0.05)


def test_a_short_fit_learns_and_the_adaptive_attack_is_stronger() -> None:
    """On digits: the softmax of the logits saturates, so that their cross-entropy leads PGD astray."""
    x, y = (part[200:] for part in digits())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        defense = MMC(
            MaxMahalanobis(SmallConvNet(width=8), features=16),
            attack=PGD(Threat(eps=0.1), steps=4, loss="label_logit", targeted=True, random_targets=10),
        )
        optimizer = torch.optim.SGD(defense.parameters(), 0.01, 0.9)
        for _ in range(6):
            for rows in torch.randperm(len(x)).split(64):
                batch = Batch(x[rows], y[rows], rows)
                optimizer.zero_grad()
                defense.loss(batch, defense.generate(batch)).total.mean().backward()
                optimizer.step()
    made = defense.net.eval()
    x, y = (part[:200] for part in digits())
    assert (made(x).argmax(1) == y).float().mean() > 0.9
    threat = Threat(eps=0.1)
    robust = {}
    for name in ("pgd20", "pgd20-label_logit"):
        attack = named_attack(name).with_threat(threat)
        robust[name] = float((made(attack(made, x, y)).argmax(1) == y).float().mean())
    assert 0.3 < robust["pgd20-label_logit"] <= robust["pgd20"]
