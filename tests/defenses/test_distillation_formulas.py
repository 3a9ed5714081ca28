"""IAD and AdaAD against their formulas, written anew in plain torch, in float64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_robust.attacks import PGD, FriendlyPGD
from lightning_robust.defenses import IAD, AdaAD, Defense
from lightning_robust.parts import KappaWeights, Teacher
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Losses, Views
from tests.helpers.few import norm_net, plain_net
from tests.helpers.second_ring import batch, recorded

EPS, STEP, STEPS = 0.1, 0.03, 4


def kl(p: Tensor, z: Tensor) -> Tensor:
    """KL(p || softmax(z)) of probabilities and logits."""
    return (p * (p.log() - (z - z.logsumexp(1, keepdim=True)))).sum(1)


def started(seed: int) -> tuple[Tensor, PGD]:
    """A random point of the box near the images, and the attack that starts there."""
    torch.manual_seed(seed)
    x = batch().x
    start = (x + EPS * (2 * torch.rand_like(x) - 1)).clamp(0, 1)

    class From(PGD):
        def __call__(self, net: Any, x: Tensor, target: Tensor, **given: Any) -> Tensor:
            return super().__call__(net, x, target, **{**given, "start": start})

    return start, From(Threat("linf", EPS), steps=STEPS, step_size=STEP)


def ascended(value: Any, start: Tensor) -> Tensor:
    """The last point of the ascent on value(x)."""
    x, x_adv = batch().x, start
    for _ in range(STEPS):
        x_adv = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(value(x_adv).sum(), x_adv)
        x_adv = x + (x_adv.detach() + STEP * gradient.sign() - x).clamp(-EPS, EPS)
        x_adv = x_adv.clamp(0, 1)
    return x_adv.detach()


def assert_same(losses: Losses, expected: Tensor, ours: nn.Module, theirs: nn.Module) -> None:
    """The loss of each sample, the gradients of all parameters and the batch norms' statistics."""
    torch.testing.assert_close(losses.total, expected, rtol=1e-10, atol=1e-13)
    losses.total.mean().backward()
    expected.mean().backward()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-12, msg=name)
    for one, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("alpha", "scale"), [(1.0, 1.0), (0.7, 100.0)])
def test_adaad(alpha: float, scale: float) -> None:
    net, plain, teacher = recorded("model"), recorded("model"), recorded("second").eval()
    start, attack = started(0)
    defense = AdaAD(net, recorded("second"), alpha, scale, attack=attack)
    views = defense.generate(batch())
    plain.eval()
    x, x_adv = batch().x, ascended(lambda z: kl(teacher(z).softmax(1), plain(z)), start)
    torch.testing.assert_close(views.adv, x_adv, rtol=0, atol=1e-12)
    held = ascended(lambda z: kl(teacher(z).softmax(1).detach(), plain(z)), start)
    assert (held - x_adv).abs().max() > STEP  # the teacher's gradient counts
    plain.train()
    k, t, t_adv = len(teacher(x)[0]), teacher(x).softmax(1).detach(), teacher(x_adv).softmax(1).detach()
    natural, robust = kl(t, plain(x)), kl(t_adv, plain(x_adv))
    expected = scale * (alpha * robust + (1 - alpha) * natural) / k
    assert_same(defense.loss(batch(), views), expected, net, plain)


@pytest.mark.parametrize(
    ("epoch", "beta", "alpha", "temperature"), [(2, 0.1, 1.0, 1.0), (5, 2.0, 0.6, 3.0), (1, 2.0, 0.6, 3.0)]
)
@pytest.mark.parametrize("soft", [False, True])
def test_iad(epoch: int, beta: float, alpha: float, temperature: float, soft: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(IAD, "current_epoch", epoch)
    net, plain, teacher = recorded("sharp"), recorded("sharp"), recorded("second").eval()
    start, attack = started(1)
    defense = IAD(net, recorded("second"), alpha, temperature, beta, begin=2, attack=attack, attack_bn="train")
    given = batch()
    views = defense.generate(given)
    x_adv = ascended(lambda z: F.cross_entropy(plain(z), given.y, reduction="none"), start)
    torch.testing.assert_close(views.adv, x_adv, rtol=0, atol=1e-12)
    label = F.one_hot(given.y, len(teacher(given.x)[0])).double()
    if soft:
        label = 0.8 * label + 0.2 / len(label[0])
        given = given._replace(y=label)
    z_adv, z = plain(x_adv), plain(given.x)
    taught = (teacher(given.x) / temperature).softmax(1).detach()
    trust = teacher(x_adv).softmax(1).detach()[range(len(z)), label.argmax(1)] ** beta
    own = (1 - trust) * kl(z.softmax(1), z_adv) if epoch >= 2 else 0
    natural = -(label * z.log_softmax(1)).sum(1)
    expected = alpha * (temperature**2 * kl(taught, z_adv / temperature) + own) + (1 - alpha) * natural
    assert_same(defense.loss(given, views), expected, net, plain)


@pytest.mark.parametrize("bn", ["eval", "batch", "train"])
def test_the_teacher_of_adaad_answers_in_evaluation_mode_and_stays_as_it_is(bn: Any) -> None:
    start, attack = started(2)
    defense = AdaAD(recorded("model"), recorded("second").train(), attack=attack, attack_bn=bn)
    defense.teacher.net.train()
    before = {name: value.clone() for name, value in defense.teacher.net.state_dict().items()}
    views = defense.generate(batch())
    assert all(torch.equal(value, before[name]) for name, value in defense.teacher.net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in defense.teacher.net.parameters())
    student, teacher = recorded("model"), recorded("second").eval()
    student.train(bn != "eval")
    expected = ascended(lambda z: kl(teacher(z).softmax(1), student(z)), start)
    torch.testing.assert_close(views.adv, expected, rtol=0, atol=1e-12)


def test_attacks_that_watch_or_stop_see_the_logits_of_the_net_that_learns() -> None:
    """Not the teacher's: how many points are classified correctly counts, and where a sample stops."""
    torch.manual_seed(0)
    given = Batch(torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(6))
    seen: list[Tensor] = []

    class Watched(KappaWeights):
        def watch(self, y: Tensor) -> Any:
            return lambda logits: seen.append(logits)

    net = plain_net()
    attack = PGD(Threat(eps=0.1), steps=2, start="none")
    AdaAD(net, norm_net(3), attack=attack, reweighting=Watched(start_epoch=0)).generate(given)
    assert len(seen) == 2
    torch.testing.assert_close(seen[0], net(given.x).detach())
    friendly = FriendlyPGD(Threat(eps=0.5), steps=3, step_size=0.2, tau=0, start="none")
    wrong = net(given.x).argmax(1) != given.y
    assert wrong.any()
    assert not wrong.all()
    moved = (AdaAD(net, norm_net(3), attack=friendly).generate(given).adv != given.x).flatten(1).any(1)
    assert torch.equal(moved, ~wrong)


@pytest.mark.parametrize(
    ("method", "settings", "told"),
    [
        (AdaAD, {"alpha": 1.5}, r"alpha in \[0, 1\] and scale > 0, got 1.5 and 1.0"),
        (AdaAD, {"scale": 0.0}, "got 1.0 and 0.0"),
        (AdaAD, {"label_smoothing": 0.1}, "leave label_smoothing out"),
        (IAD, {"alpha": -0.5}, "got -0.5, 1.0, 0.1 and 60"),
        (IAD, {"temperature": 0.0}, "got 1.0, 0.0, 0.1 and 60"),
        (IAD, {"beta": -1.0}, "got 1.0, 1.0, -1.0 and 60"),
        (IAD, {"begin": -1}, "got 1.0, 1.0, 0.1 and -1"),
    ],
)
def test_settings_out_of_range_are_refused(method: type[Defense], settings: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        method(plain_net(), norm_net(), **settings)


def test_a_teacher_of_other_classes_is_refused_where_its_gradient_is_taken() -> None:
    teacher = Teacher(nn.Sequential(nn.Flatten(), nn.Linear(16, 5)))
    with pytest.raises(ValueError, match="The teacher gives 5 logits but the net 3"):
        teacher.with_gradient(torch.rand(2, 1, 4, 4), 3)


def test_views_hold_what_the_teacher_says_of_both() -> None:
    for method in (IAD, AdaAD):
        x = batch().x
        views: Views = method(recorded("model"), recorded("second"), attack=PGD(steps=1)).generate(batch())
        teacher = recorded("second").eval()
        torch.testing.assert_close(views.more["teacher"], teacher(x).detach())
        torch.testing.assert_close(views.more["teacher_adv"], teacher(views.adv).detach())
