"""However a net is called, it is attacked in evaluation mode and left as it was, as the plain module is."""

import copy
import functools
import types

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn

from lightning_robust.attacks import APGD, PGD
from lightning_robust.attacks.functional import fab
from lightning_robust.attacks.pad_small_batches import PadSmallBatches
from lightning_robust.metrics.functional import effective_margin
from lightning_robust.runtime.modes import attack_mode, logits_no_grad, samples_are_independent
from lightning_robust.runtime.modules_of import modules_of
from lightning_robust.runtime.outputs import LogitsNet
from lightning_robust.threat import Threat
from tests.helpers.toys import conv_net

X = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3, 0, 1])
GLOBAL = conv_net()
SPACE = types.SimpleNamespace(net=GLOBAL)


class Holder:
    """Not a module itself; hides its net deeper than an attribute's name tells."""

    def __init__(self, net: nn.Module) -> None:
        self._parts = [net]
        self.inner = types.SimpleNamespace(net=net)

    def __call__(self, x: Tensor) -> Tensor:
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        return self._parts[0](x)

    def lambda_of_a_part(self):
        return lambda x: self.inner.net(x)


class Module(LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def predict_logits(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(x)}


def logged(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args)

    return inner


def by_global(x: Tensor) -> Tensor:
    return GLOBAL(x)


def module_first(net: nn.Module, x: Tensor, scale: float = 1.0) -> Tensor:
    return scale * net(x)


CALLABLES = {
    "bound method": lambda net: net.forward,
    "method of a LightningModule": lambda net: Module(net).predict_logits,
    "lambda": lambda net: lambda x: net(x),
    "nested lambda": lambda net: lambda x: (lambda z: net(z))(x),
    "partial": lambda net: functools.partial(module_first, net),
    "partial by keyword": lambda net: functools.partial(lambda x, model: model(x), model=net),
    "decorated": lambda net: logged(lambda x: net(x)),
    "default argument": lambda net: lambda x, model=net: model(x),
    "list in a closure": lambda net: (lambda nets: lambda x: sum(n(x) for n in nets))([net]),
    "callable object": Holder,
    "method of an object": lambda net: Holder(net)._run,
    "lambda in a method": lambda net: Holder(net).lambda_of_a_part(),
    "wrapper of a lambda": lambda net: PadSmallBatches(LogitsNet(lambda x: net(x))),
    "global": lambda net: by_global,
    "lambda of a global": lambda net: lambda x: by_global(x),
    "attribute of a global": lambda net: lambda x: SPACE.net(x),
}


def state(net: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(net.state_dict())


def flags(net: nn.Module) -> list[bool]:
    return [module.training for module in net.modules()] + [p.requires_grad for p in net.parameters()]


@pytest.mark.parametrize("name", CALLABLES)
def test_a_callable_is_attacked_as_its_module_in_evaluation_mode(name: str) -> None:
    """Examples to the bit; of the module in training mode no statistic moves, and no flag."""
    net = GLOBAL if "global" in name else conv_net()
    call, before, flagged = CALLABLES[name](net), state(net), flags(net)
    reference = conv_net().eval()
    for attack in (PGD(Threat(eps=0.1), steps=3, start="none"), APGD(Threat("l2", 0.5), steps=4)):
        torch.manual_seed(3)
        got = attack(call, X, Y)
        torch.manual_seed(3)
        assert torch.equal(got, attack(reference, X, Y))
    assert flags(net) == flagged
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_all_modules_of_a_closure_are_switched() -> None:
    first, second = conv_net(), conv_net()
    second[8].weight.data.neg_()
    with torch.no_grad():
        expected = first.eval()(X) + 2 * second.eval()(X)
    first.train()
    second.train()
    before = state(first), state(second)

    def both(x: Tensor) -> Tensor:
        return first(x) + 2 * second(x)

    with attack_mode(both):
        assert not first.training
        assert not second.training
        assert not any(p.requires_grad for p in [*first.parameters(), *second.parameters()])
    torch.testing.assert_close(logits_no_grad(both, X), expected)
    assert torch.equal(effective_margin(both, X, Y), effective_margin(both, X, Y))  # dropout would differ
    fab(both, X, Y, eps=0.1, steps=3)
    for net, old in zip((first, second), before, strict=True):
        assert net.training
        assert all(torch.equal(value, old[key]) for key, value in net.state_dict().items())


def test_the_mode_that_is_asked_for_holds_too() -> None:
    net = conv_net()
    before = net[1].running_mean.clone()
    logits_no_grad(lambda x: net(x), X, "batch")
    assert torch.equal(net[1].running_mean, before)
    logits_no_grad(lambda x: net(x), X, "train")
    assert not torch.equal(net[1].running_mean, before)


def test_samples_see_each_other_through_a_callable_too() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten())
    assert not samples_are_independent(net)
    assert not samples_are_independent(lambda x: net(x))
    assert samples_are_independent(lambda x: x.flatten(1))


def test_what_holds_no_module_has_none() -> None:
    weight = torch.randn(3, 192)
    data = [object()] * 5000
    assert not modules_of(lambda x: torch.nn.functional.linear(x.flatten(1), weight) + len(data))
    assert not modules_of(torch.sin)
    assert not modules_of(functools.partial(torch.add, 1))


def test_a_closure_that_refers_to_itself_ends() -> None:
    def recursive(x: Tensor, depth: int = 0) -> Tensor:
        return x if depth else recursive(x, 1)

    holder = Holder(conv_net())
    holder.again = holder  # type: ignore[attr-defined]
    assert not modules_of(recursive)
    assert len(modules_of(holder)) == len(modules_of(holder._parts[0]))
