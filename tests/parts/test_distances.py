"""SCORE's nine distances against what the authors' code computed, their gradients, and the losses made of them."""

from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import brier_score_loss
from torch import Tensor

from lightning_robust.attacks import PGD
from lightning_robust.defenses import SCORE, SCOREAT
from lightning_robust.parts.distances import Distance, DistanceName, logits_of_labels
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Views
from tests.helpers.few import plain_net
from tests.helpers.second_ring import RING, of

NAMES: dict[Any, str] = {
    "l2_squared": "LSE",
    "l2": "2",
    "l1": "1",
    "l1_squared": "L1square",
    "kl": "KL",
    "kl_root": "KLsqrt",
    "reverse_kl_root": "RKLsqrt",
    "js": "JS",
    "js_root": "JSsqrt",
}
"""The authors' name of each distance."""

FINITE = [name for name in NAMES if name != "reverse_kl_root"]  # for hard labels


def plain(name: str, p: Tensor, q: Tensor) -> Tensor:
    """The formula of probabilities that are all above 0."""
    m = (p + q) / 2
    kl, reverse = (q * (q / p).log()).sum(1), (p * (p / q).log()).sum(1)
    js = ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)) / 2
    formulas = {
        "l2_squared": ((p - q) ** 2).sum(1),
        "l2": ((p - q) ** 2).sum(1) ** 0.5,
        "l1": (p - q).abs().sum(1),
        "l1_squared": (p - q).abs().sum(1) ** 2,
        "kl": kl,
        "kl_root": kl**0.5,
        "reverse_kl_root": reverse**0.5,
        "js": js,
        "js_root": js**0.5,
    }
    return formulas[name]


def test_the_names_are_those_of_the_record() -> None:
    assert set(NAMES) == set(get_args(DistanceName))
    assert {f"value_{theirs}" for theirs in NAMES.values()} == {
        key for key in RING["score_distances"] if key.startswith("value_") and not key.endswith("_f64")
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_authors_values(name: Any) -> None:
    """In float64, and in the right direction: the record's KL are not symmetric."""
    record = RING["score_distances"]
    found = Distance(name)(of(record, "output").log(), of(record, "target").log())
    torch.testing.assert_close(found, of(record, f"value_{NAMES[name]}"), rtol=1e-9, atol=0)


def test_the_squared_l2_distance_from_a_label_is_scikit_learns_brier_score() -> None:
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3, 4, 0])
    each = zip(y[:, None], logits.softmax(1)[:, None], strict=True)
    expected = [brier_score_loss(label, row, scale_by_half=False, labels=range(5)) for label, row in each]
    for labels in (y, F.one_hot(y, 5).double()):
        found = Distance("l2_squared")(logits, logits_of_labels(labels, logits))
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name: Any) -> None:
    logits, reference = (3 * torch.randn(4, 5, dtype=torch.float64) for _ in range(2))
    both = (logits.requires_grad_(), reference.requires_grad_())
    assert torch.autograd.gradcheck(Distance(name), both)


@pytest.mark.parametrize("name", FINITE)
def test_gradients_of_hard_labels_are_those_of_finite_differences(name: Any) -> None:
    y, logits = torch.tensor([0, 3, 1, 1]), torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    distance = Distance(name)
    assert torch.autograd.gradcheck(lambda z: distance(z, logits_of_labels(y, z)), (logits,))
    assert torch.autograd.gradcheck(lambda z: distance.ascended_of_labels(z, y), (logits,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_finite_where_probabilities_are_0_or_equal(name: Any, dtype: torch.dtype) -> None:
    """Rows: both alike; a probability that underflows in one, in the other; a masked class; as good as a label."""
    a = torch.tensor([[1.0, 2, 3], [0, 0, -2e3], [0, 1, 2], [0, 1, -torch.inf], [900, 0, 0]], dtype=dtype)
    b = torch.tensor([[1.0, 2, 3], [0, 1, 2], [0, 0, -2e3], [2, 0, -torch.inf], [900, 0, 0]], dtype=dtype)
    a, b = a.requires_grad_(), b.requires_grad_()
    value = Distance(name)(a, b)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.isfinite().all()
    assert value[0] == value[4] == 0
    for gradient in torch.autograd.grad(value.sum(), (a, b)):
        assert gradient.isfinite().all()
        assert (gradient[[0, 4]].abs() < 1e-6).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_masked_class_is_as_one_that_is_absent(name: Any) -> None:
    a, b = (torch.randn(4, 3, dtype=torch.float64) for _ in range(2))
    absent = torch.full((4, 1), -torch.inf, dtype=torch.float64)
    found = Distance(name)(*(torch.cat([z, absent], 1) for z in (a, b)))
    torch.testing.assert_close(found, Distance(name)(a, b), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_attacks_raise_what_is_largest_where_the_distance_is(name: Any) -> None:
    a, b = (torch.randn(20, 4, dtype=torch.float64) for _ in range(2))
    distance = Distance(name)
    assert distance(a, b).argsort().tolist() == distance.ascended(a, b).argsort().tolist()


ATTACK = PGD(Threat(eps=0.1), steps=2, start="normal")


def given() -> tuple[Batch, Views]:
    torch.manual_seed(0)
    x = torch.rand(6, 1, 4, 4, dtype=torch.float64)
    soft = F.one_hot(torch.tensor([0, 1, 2, 0, 1, 2]), 3).double() * 0.7 + 0.1
    return Batch(x, soft), Views((x + 0.1 * torch.rand_like(x)).clamp(0, 1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("clipped", ["robust", "all"])
def test_score_trains_on_the_distance(name: Any, clipped: Any) -> None:
    batch, views = given()
    net = plain_net(dtype=torch.float64)
    defense = SCORE(net, 2.0, 0.01, clipped, distance=name, label_smoothing=0.1, attack=ATTACK)
    p, p_adv = (net(x).softmax(1) for x in (batch.x, views.adv))
    natural, robust = plain(name, p, batch.y), plain(name, p_adv, p)
    expected = natural + 2 * (robust - 0.01).relu() if clipped == "robust" else (natural + 2 * robust - 0.01).relu()
    losses = defense.loss(batch, views)
    torch.testing.assert_close(losses.total, expected, rtol=1e-9, atol=1e-12)
    ours, theirs = (torch.autograd.grad(total.sum(), [*net.parameters()]) for total in (losses.total, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", FINITE)
def test_score_at_trains_on_the_distance(name: Any) -> None:
    batch, views = given()
    net = plain_net(dtype=torch.float64)
    expected = (plain(name, net(views.adv).softmax(1), batch.y) - 0.01).relu()
    found = SCOREAT(net, 0.01, name, attack=ATTACK).loss(batch, views).total
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_attack_raises_the_distance(name: Any) -> None:
    batch, _ = given()
    net = plain_net(dtype=torch.float64)
    score = SCORE(net, distance=name, label_smoothing=0.1, attack=ATTACK)
    distance, clean = Distance(name), net(batch.x)
    crafted = distance(net(score.generate(batch).adv), clean)
    assert (crafted > distance(net(batch.x + 0.001), clean) + 1e-6).all()
    if name in FINITE:
        hard = batch._replace(y=batch.y.argmax(1))
        label, crafted = logits_of_labels(hard.y, clean), SCOREAT(net, 0.0, name, attack=ATTACK).generate(hard).adv
        assert (distance(net(crafted), label) > distance(clean, label)).all()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="Unknown distance 'l3': choose from l2_squared, l2, l1"):
        SCORE(plain_net(), distance="l3", attack=ATTACK)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"reverse_kl_root is infinite .* set label_smoothing"):
        SCORE(plain_net(), distance="reverse_kl_root", attack=ATTACK)
    with pytest.raises(ValueError, match=r"reverse_kl_root is infinite .* SCORE with label_smoothing"):
        SCOREAT(plain_net(), distance="reverse_kl_root", label_smoothing=0.1)
