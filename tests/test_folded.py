"""A net with folded batch norms: the same function, and only where that is so."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_robust.attacks import APGD, FAB, PGD, AutoAttack, Square
from lightning_robust.attacks.base import FORWARD_ROOM, misclassified
from lightning_robust.defenses import AT
from lightning_robust.draws import Draws
from lightning_robust.evaluation.evaluate import Evaluation
from lightning_robust.evaluation.samples import Samples
from lightning_robust.folded import Folded, exact, folded, unsure
from lightning_robust.models import PreActResNet, SmallConvNet, TorchvisionModel, WideResNet
from lightning_robust.modes import Steady
from lightning_robust.threat import Threat
from tests.trained import held_out, trained_net

X = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(4))


def settled(net):
    """With running statistics that are not those of a new net."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
                if module.affine:
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias)
    return net.eval()


def small():
    torch.manual_seed(1)
    return settled(SmallConvNet(4, 3, width=4))


NETS = {
    "small": small,
    "preact": lambda: settled(PreActResNet(18, width=4)),
    "wide": lambda: settled(WideResNet(10, 1)),
    "resnet": lambda: settled(TorchvisionModel("resnet18", small_images=True)),
    "defense": lambda: AT(small()),
    "normalised": lambda: settled(PreActResNet(18, width=4, mean=[0.5] * 3, std=[0.2] * 3)),
}


def gradient(net, x):
    z = x.clone().requires_grad_()
    logits = net(z)
    return logits.detach(), torch.autograd.grad(logits.square().sum(), z)[0]


@pytest.mark.parametrize("name", NETS)
def test_it_is_the_same_function_with_fewer_batch_norms(name):
    net = NETS[name]()
    quick = folded(net, X).eval()
    assert isinstance(quick, Folded)
    for mine, theirs in zip(gradient(quick, X), gradient(net, X), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
    count = [sum(isinstance(m, nn.BatchNorm2d) for m in part.modules()) for part in (quick.quick, net)]
    assert count[0] < count[1]


def test_the_net_is_left_as_it_was_and_runs_itself_in_training_mode():
    net = small().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    quick = folded(net, X)
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert not any(p.requires_grad for p in quick.quick.parameters())
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    quick.train()
    torch.testing.assert_close(quick(X), small().train()(X))


class Random(SmallConvNet):
    def forward(self, x):
        return super().forward(x) + 0.1 * torch.randn(len(x), 1)


class Branching(SmallConvNet):
    def forward(self, x):
        return super().forward(x) if x.mean() > 0 else super().forward(-x)


class Baked(SmallConvNet):
    """Traced, its noise would be the same for ever."""

    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn(1, 3, 16, 16))


class Rounds(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (x * 4).round() / 4

    @staticmethod
    def backward(ctx, grad):
        return grad


class StraightThrough(SmallConvNet):
    def forward(self, x):
        return super().forward(Rounds.apply(x))


class Shared(nn.Module):
    """One convolution before two batch norms cannot hold both."""

    def __init__(self):
        super().__init__()
        self.conv, self.one, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.other(self.conv(self.one(self.conv(x)))).mean((2, 3))


@pytest.mark.parametrize("kind", [Random, Branching, Baked, StraightThrough])
def test_what_cannot_be_folded_stays_as_it_is(kind):
    net = settled(kind(4, 3, width=4))
    assert folded(net, X) is net


def test_neither_does_what_would_be_another_function():
    net = settled(Shared())
    quick = folded(net, X)
    torch.testing.assert_close(quick(X), net(X), rtol=1e-4, atol=1e-4)


def test_functions_nets_without_batch_norm_and_folded_ones_stay_as_they_are():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    quick = folded(small(), X)
    for net in (plain, quick, lambda x: x.flatten(1)[:, :4]):
        assert folded(net, X) is net
        assert exact(plain) is plain


def test_the_net_itself_judges_what_rounding_might_decide():
    y, logits = torch.tensor([0, 0, 0]), torch.tensor([[1.0, 1.00001], [1.0, 2.0], [2.0, 1.0]])
    assert unsure(logits, y)[:2].tolist() == [True, False]
    asked = []

    class Judge(nn.Module):
        def forward(self, x):
            asked.append(len(x))
            return torch.tensor([[1.0, 0.0]]).expand(len(x), 2)

    for net in (Folded(Judge(), nn.Identity()), Steady(Folded(Judge(), nn.Identity()))):
        asked.clear()
        assert misclassified(net, X[:3], logits, y).tolist() == [False, True, False]
        assert asked == [1 if isinstance(net, Folded) else 8]


@pytest.mark.parametrize("make", [lambda threat: AutoAttack(threat, "rapid"), PGD])
def test_verdicts_are_the_nets_own(make):
    net, (x, y) = trained_net(), held_out(40)
    attack, found = make(Threat(eps=0.2)), {}
    for fold in (False, True):
        samples = Samples()
        columns = {"x": x, "y": y, "index": torch.arange(40), "clean": net(x).argmax(1)}
        samples.append({**columns, "shown": torch.zeros(40, dtype=torch.bool)})
        samples.settle()
        run = Evaluation({"attack": attack}, batch_size=16, fold=fold)
        run.prepare(samples)
        run.run(net, samples, torch.device("cpu"))
        found[fold] = samples
    assert 5 < (found[False]["attack/broken"] >= 0).sum() < 35
    for column in ("broken", "class"):
        assert torch.equal(found[True][f"attack/{column}"], found[False][f"attack/{column}"])
    torch.testing.assert_close(found[True]["attack/size"], found[False]["attack/size"], rtol=1e-3, atol=1e-6)


def test_a_folded_net_gives_a_sample_the_same_bits_in_any_batch():
    net = Steady(folded(small(), X)).eval()
    many = torch.rand(120, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    logits, grads = gradient(net, many)
    for size in (1, 7, 50):
        parts = [gradient(net, part) for part in many.split(size)]
        assert torch.equal(torch.cat([part[0] for part in parts]), logits)
        assert torch.equal(torch.cat([part[1] for part in parts]), grads)


def test_an_ensemble_folds_unless_told_not_to_and_only_in_evaluation_mode():
    seen = []

    class Watched(SmallConvNet):
        def forward(self, x):
            seen.append(not isinstance(x, torch.fx.Proxy))
            return super().forward(x)

    torch.manual_seed(1)
    net = settled(Watched(4, 3, width=4))
    y, passes = net(X).argmax(1), {}
    for fold in (True, False):
        seen.clear()
        AutoAttack(Threat(eps=1e-4), "rapid", fold=fold)(net, X, y, draws=Draws(0, torch.arange(12)))
        passes[fold] = sum(seen)
    assert passes[False] > 300
    assert passes[True] < 20


def test_attacks_without_gradients_take_more_images_at_a_time():
    assert Square().fitting(10) == FORWARD_ROOM * 10
    assert APGD().fitting(10) == FAB().fitting(10) == 10
    sizes = []

    def net(x):
        sizes.append(len(x))
        return F.one_hot(torch.zeros(len(x), dtype=torch.long), 4).float() + 1e-3 * x.flatten(1)[:, :4]

    attack = AutoAttack(Threat(eps=1e-3), batch_size=8)
    attack.attacks = {"square": Square(Threat(eps=1e-3), queries=3)}
    attack(net, X.repeat(4, 1, 1, 1), torch.zeros(48, dtype=torch.long))
    assert max(sizes) == 32
