"""The pair of squeeze training on a linear net, against loops, and against scipy."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_robust.attacks import Collaborative
from lightning_robust.attacks.functional import squeeze
from lightning_robust.attacks.squeeze import DISCREPANCIES, Extremes
from lightning_robust.runtime.modes import AttackBN
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from tests.helpers.few import norm_net
from tests.helpers.foreign import images
from tests.helpers.toys import conv_net, linear_net

GENERATOR = torch.Generator().manual_seed(0)
THREAT = Threat(eps=0.1)
W = torch.randn(2, 16, generator=GENERATOR, dtype=torch.float64)
LINE = linear_net(W)
GREY = 0.5 + 0.2 * (torch.rand(6, 1, 4, 4, generator=GENERATOR, dtype=torch.float64) - 0.5)  # the box is out of reach
LABEL = torch.tensor([0, 1, 0, 1, 0, 1])
TOWARDS = torch.stack([(W[y] - W[1 - y]).sign() for y in LABEL]).view_as(GREY)  # more confidence in the label
DRAWS = SampleRNG(0, torch.arange(6))


def confidence(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return net(x).softmax(1).gather(1, y[:, None])[:, 0].detach()


@pytest.mark.parametrize("discrepancy", DISCREPANCIES)
def test_on_a_linear_net_the_pair_is_the_least_and_the_most_confident_corner(discrepancy: Any) -> None:
    adv, col = squeeze(
        LINE, GREY, LABEL, THREAT, steps=9, step_size=0.05, discrepancy=discrepancy, start="uniform", rng=DRAWS
    )
    torch.testing.assert_close(adv, GREY - 0.1 * TOWARDS)
    torch.testing.assert_close(col, GREY + 0.1 * TOWARDS)


def test_the_gap_grows_with_the_steps_and_contains_the_clean_image() -> None:
    gaps = []
    for steps in range(5):
        adv, col = squeeze(LINE, GREY, LABEL, THREAT, steps=steps, step_size=0.02, rng=SampleRNG(0, torch.arange(6)))
        low, clean, high = (confidence(LINE, x, LABEL) for x in (adv, GREY, col))
        gaps.append(high - low)
        if steps:
            assert (low < clean).all()
            assert (clean < high).all()
    assert (torch.stack(gaps[1:]) > torch.stack(gaps[:-1])).all()
    assert (gaps[0].abs() < 0.01).all()


def test_roles_follow_the_confidence_in_the_label() -> None:
    logits, y = torch.randn(3, 50, 4, generator=GENERATOR), torch.randint(4, (50,), generator=GENERATOR)
    logits[1, :5] = logits[2, :5] = logits[0, :5]  # among equals the first, as torch's argmin
    extremes = Extremes.of(logits, y)
    up, low = extremes.pick(logits)
    for i in range(50):
        p = [float(logits[view, i].softmax(0)[y[i]]) for view in range(3)]
        assert (int(extremes.upper[i]), int(extremes.lower[i])) == (p.index(min(p)), p.index(max(p)))
        assert torch.equal(up[i], logits[p.index(min(p)), i])
        assert torch.equal(low[i], logits[p.index(max(p)), i])


def expected(discrepancy: str, p: Any, q: Any) -> Any:
    if discrepancy == "js":
        return jensenshannon(p, q, axis=1) ** 2
    if discrepancy == "l2":
        return ((p - q) ** 2).sum(1)
    return (rel_entr(p, q) + rel_entr(q, p)).sum(1) / 2


@pytest.mark.parametrize("discrepancy", DISCREPANCIES)
def test_discrepancies_equal_scipys(discrepancy: str) -> None:
    a, b = (3 * torch.randn(7, 4, generator=GENERATOR, dtype=torch.float64) for _ in range(2))
    p, q = a.softmax(1).numpy(), b.softmax(1).numpy()
    np.testing.assert_allclose(DISCREPANCIES[discrepancy](a, b).numpy(), expected(discrepancy, p, q), rtol=1e-9)


@pytest.mark.parametrize("discrepancy", DISCREPANCIES)
def test_discrepancies_pull_on_both_sides(discrepancy: str) -> None:
    """Symmetric KL with its targets held constant pulls as hard as 1/2 (q - p) on the logits of p."""
    a, b = (torch.randn(2, 4, generator=GENERATOR, dtype=torch.float64).requires_grad_() for _ in range(2))
    gap = DISCREPANCIES[discrepancy]
    if discrepancy == "symmetric_kl":
        grads = torch.autograd.grad(gap(a, b).sum(), (a, b))
        difference = (a.softmax(1) - b.softmax(1)).detach() / 2
        torch.testing.assert_close(list(grads), [difference, -difference])
    else:
        assert torch.autograd.gradcheck(gap, (a, b))


def naive(
    net: nn.Module, x: Tensor, y: Tensor, starts: Any, steps: int, step: float, keep: bool, bn: str = "batch"
) -> tuple[Any, bool]:
    """Algorithm 1 sample by sample; also whether images and roles ever differed."""
    net = net.train(bn == "batch")
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.track_running_stats = bn == "eval"
    adv, col = (start.clone() for start in starts)
    clean, mismatch = net(x).detach(), False
    for _ in range(steps):
        inputs = [t.clone().requires_grad_() for t in (x, col, adv)]
        logits = [clean, net(inputs[1]), net(inputs[2])]
        order = [
            sorted(range(3), key=lambda k, i=i: -float(cross_entropy(logits[k][i], y[i]).detach()))
            for i in range(len(y))
        ]
        chosen = any(0 in (o[0], o[-1]) for o in order)
        if chosen:
            logits[0] = net(inputs[0])
        p = [z.softmax(1) for z in logits]
        value = torch.zeros(())
        for i, o in enumerate(order):
            up, low = p[o[0]][i], p[o[-1]][i]
            value = value + ((low.detach() / up).log() * low.detach()).sum() / 2
            value = value + ((up.detach() / low).log() * up.detach()).sum() / 2
        grads = torch.autograd.grad(value, inputs, allow_unused=True)
        old = [t.detach() for t in inputs]
        for i, o in enumerate(order):
            mismatch |= not chosen and (o[0], o[-1]) != (2, 1)
            if chosen or not keep:
                adv[i], col[i] = old[o[0]][i], old[o[-1]][i]
            for image, k in ((adv, o[0]), (col, o[-1])):
                moved = image[i] + step * grads[k][i].sign()
                image[i] = moved.clamp(x[i] - 0.1, x[i] + 0.1).clamp(0, 1)
    return (adv, col), mismatch


@pytest.mark.parametrize("bn", ["batch", "eval"])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
def test_roles_are_kept_only_if_asked_and_only_while_no_clean_image_is_chosen(
    keep: bool, swapped: bool, bn: AttackBN
) -> None:
    x, y = images(5, channels=3, size=8, num_classes=4).tensors
    net = conv_net().double()
    del net[6]  # dropout would draw anew
    x = x.double()
    adv, col = squeeze(net, x, y, THREAT, steps=8, step_size=0.03, bn=bn, rng=SampleRNG(0, torch.arange(5)))
    starts = (col, adv) if swapped else (adv, col)  # far from the clean images, in the right or the wrong roles
    got = squeeze(net, x, y, THREAT, steps=3, step_size=0.03, starts=starts, keep_roles=keep, bn=bn)
    reference, mismatch = naive(net, x, y, starts, 3, 0.03, keep, bn)
    assert mismatch == swapped
    torch.testing.assert_close(list(got), list(reference), rtol=0, atol=1e-9)
    sorted_right = (confidence(net, got[0], y) < confidence(net, got[1], y)).all()
    assert sorted_right or (keep and swapped)
    if keep and swapped:
        other = squeeze(net, x, y, THREAT, steps=3, step_size=0.03, starts=starts, bn=bn)
        assert not torch.allclose(got[0], other[0], atol=0.01)


def test_samples_that_see_each_other_do_not_pass_with_those_of_another_view() -> None:
    """A norm without statistics takes the batch's in evaluation mode too."""
    x, y = images(5, channels=3, size=8, num_classes=4).tensors
    for norm, sizes in ((nn.BatchNorm2d(8), {5, 10}), (nn.BatchNorm2d(8, track_running_stats=False), {5})):
        net, passed = conv_net(), set()
        net[4] = norm
        net.register_forward_hook(lambda module, inputs, out, passed=passed: passed.add(len(inputs[0])))
        squeeze(net, x, y, THREAT, steps=2, step_size=0.03, bn="eval")
        assert passed == sizes


def test_the_net_is_left_as_it_was() -> None:
    net, (x, y) = norm_net(), images(4).tensors
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        squeeze(net, x, y, THREAT, steps=2, step_size=0.05)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training
    assert net[0].track_running_stats
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_starting_at_the_clean_image_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot start at the clean image"):
        squeeze(LINE, GREY, LABEL, THREAT, steps=1, step_size=0.1, start="none")


def test_a_collaborative_example_is_the_most_confident_corner() -> None:
    x = Collaborative(THREAT, steps=9, step_size=0.05)(LINE, GREY, LABEL)
    torch.testing.assert_close(x, GREY + 0.1 * TOWARDS)


def test_a_collaborative_example_has_a_lower_loss() -> None:
    net, (x, y) = norm_net().eval(), images(8).tensors
    found = Collaborative(THREAT, steps=5)(net, x, y)
    assert (cross_entropy(net(found), y, reduction="none") < cross_entropy(net(x), y, reduction="none")).all()
    assert float((found - x).abs().max()) <= 0.1 + 1e-6
