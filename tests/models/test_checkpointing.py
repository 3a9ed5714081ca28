"""Gradient checkpointing against the same net without it: gradients, running statistics, and what is kept."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_robust.attacks import PGD
from lightning_robust.models import IAATWideResNet, PreActResNet, WideResNet
from lightning_robust.parts.regularizers import EffectiveWeightNorm
from lightning_robust.runtime.gradients import input_gradient
from lightning_robust.runtime.modes import attack_mode, frozen_running_stats
from lightning_robust.types import Batch, Views

X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(4)


@pytest.fixture(params=["wide_resnet", "iaat", pytest.param("preact_resnet", marks=pytest.mark.slow)])
def nets(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    """The same net without and with checkpointing."""
    builds: dict[str, Callable[..., nn.Module]] = {
        "wide_resnet": lambda **settings: WideResNet(10, 1, activation="silu", **settings),
        "preact_resnet": lambda **settings: PreActResNet(18, **settings),
        "iaat": lambda **settings: IAATWideResNet(8, 1, **settings),
    }
    plain, other = builds[request.param](), builds[request.param](checkpointing=True)
    other.load_state_dict(plain.state_dict())
    return plain, other


def assert_same(plain: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(dict(other.state_dict()), dict(plain.state_dict()))
    for (name, p), q in zip(plain.named_parameters(), other.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        torch.testing.assert_close(q.grad, p.grad)


def test_training_is_the_same(nets: tuple[nn.Module, nn.Module]) -> None:
    for net in nets:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(net(X), Y).backward()
            optimizer.step()
    assert_same(*nets)
    counts = {n.num_batches_tracked.item() for n in nets[1].modules() if isinstance(n, nn.BatchNorm2d)}  # type: ignore[operator, union-attr]
    assert counts == {2}


def test_two_gradients_of_one_pass_count_it_once(nets: tuple[nn.Module, nn.Module]) -> None:
    grads = []
    for net in nets:
        loss = F.cross_entropy(net(X), Y)
        loss.backward(retain_graph=True)
        grads.append(torch.autograd.grad(loss, list(net.parameters())))
    assert_same(*nets)
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("bn", ["eval", "batch", "train"])
def test_attacks_are_the_same(nets: tuple[nn.Module, nn.Module], bn: Any) -> None:
    grads = []
    for net in nets:
        with attack_mode(net, bn):
            grads.append(input_gradient(lambda z, net=net: F.cross_entropy(net(z), Y, reduction="none"), X)[0])
    torch.testing.assert_close(grads[0], grads[1])
    assert grads[0].abs().sum() > 0
    assert_same(*nets)
    adv = [PGD(steps=3, start="none")(net, X, Y) for net in nets] if bn == "eval" else [X, X]
    torch.testing.assert_close(adv[0], adv[1])


def test_a_penalty_in_evaluation_mode_is_differentiated_there(nets: tuple[nn.Module, nn.Module]) -> None:
    """Its backward pass comes when the net trains again."""
    penalty = EffectiveWeightNorm(weight=1.0)
    for net in nets:
        net(X)  # move the running statistics away from the batch's
        loss = F.cross_entropy(net(X), Y)
        (loss + penalty(net, Batch(X, Y), Views(X), 0).mean()).backward()
    assert_same(*nets)
    only_penalty = copy.deepcopy(nets[1])
    only_penalty.zero_grad()
    penalty(only_penalty, Batch(X, Y), Views(X), 0).mean().backward()
    assert any(p.grad is not None and p.grad.any() for p in only_penalty.parameters())


def test_a_pass_that_leaves_statistics_alone_still_does_when_recomputed(nets: tuple[nn.Module, nn.Module]) -> None:
    for net in nets:
        before = copy.deepcopy(net.state_dict())
        with frozen_running_stats(net):
            loss = F.cross_entropy(net(X), Y)
        loss.backward()
        torch.testing.assert_close(dict(net.state_dict()), dict(before))
        assert all(n.training and n.track_running_stats for n in net.modules() if isinstance(n, nn.BatchNorm2d))
    assert_same(*nets)


def test_less_is_kept(nets: tuple[nn.Module, nn.Module]) -> None:
    kept = []
    for net in nets:
        sizes: list[int] = []

        def pack(t: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(t.numel())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            net(X)
        kept.append(len(sizes))
    assert kept[1] < kept[0] / 2


def test_without_gradients_the_blocks_simply_run(nets: tuple[nn.Module, nn.Module]) -> None:
    for net in nets:
        with torch.no_grad():
            net(X)
    assert_same(*nets)
    plain, other = (net.eval() for net in nets)
    with torch.inference_mode():
        assert torch.equal(plain(X), other(X))
    assert torch.equal(pickle.loads(pickle.dumps(other))(X), other(X))


def test_a_failure_inside_a_recomputation_leaves_the_modes_as_they_were() -> None:
    net = WideResNet(10, 1, checkpointing=True)
    net.eval()
    loss = F.cross_entropy(net(X), Y)
    net.train()
    net.blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="as planned"):
        loss.backward()
    assert all(module.training for module in net.modules())
    assert all(n.track_running_stats for n in net.modules() if isinstance(n, nn.BatchNorm2d))


def fail(*_: Any) -> None:
    raise RuntimeError("as planned")
