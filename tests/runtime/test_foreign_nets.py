"""Compiled, scripted, traced, exported, wrapped and quantised nets are attacked as the plain net is, or refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from lightning_robust.attacks import APGD, CW, FAB, PGD, DeepFool, Square
from lightning_robust.runtime.gradients import input_gradient
from lightning_robust.runtime.modes import attack_mode, logits_no_grad
from lightning_robust.threat import Threat
from tests.helpers.ddp import run_ddp
from tests.helpers.toys import conv_net

X = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = conv_net().eval()(X).argmax(1)  # all are right at first, so that attacks have something to do
ATTACKS = {
    "pgd": PGD(Threat(eps=0.1), steps=3, start="none"),
    "apgd-t": APGD(Threat(eps=0.1), steps=3, targets=2),
    "fab": FAB(Threat(eps=0.3), steps=4),
    "fab-t": FAB(Threat(eps=0.3), steps=4, targets=2),
    "deepfool": DeepFool(Threat("l2", 5.0), steps=3),
    "cw": CW(Threat("l2", 5.0), steps=10, lr=0.2, search_steps=2, initial_c=1.0),
    "square": Square(Threat(eps=0.3), queries=5),
}
# torch advises to leave TorchScript and its own quantisation
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(deprecat|migrate|LeafSpec).*"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


def exported(net: nn.Module) -> nn.Module:
    return torch.export.export(net, (X,), dynamic_shapes=({0: torch.export.Dim("b", min=2)},)).module()


def compiled_in_place(net: nn.Module) -> nn.Module:
    net.compile(backend="aot_eager")
    return net


KINDS: dict[str, Callable[[nn.Module], Any]] = {
    "scripted": torch.jit.script,
    "method of a scripted net": lambda net: torch.jit.script(net).forward,
    "traced": lambda net: torch.jit.trace(net.eval(), X),
    "frozen": lambda net: torch.jit.freeze(torch.jit.script(net.eval())),
    "symbolic": torch.fx.symbolic_trace,
    "exported": lambda net: exported(net.eval()),
    "data parallel": nn.DataParallel,
    "set up by Fabric": lambda net: Fabric(accelerator="cpu").setup(net),
    "lambda around Fabric": lambda net: (lambda wrapped: lambda x: wrapped(x))(Fabric(accelerator="cpu").setup(net)),
}


def same(net: Any, attack: str) -> None:
    """The examples are the plain net's in evaluation mode; FAB's steps magnify roundings of other kernels."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        got = ATTACKS[attack](net, X, Y)
        torch.manual_seed(2)
        expected = ATTACKS[attack](conv_net().eval(), X, Y)
    assert not torch.equal(expected, X)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_foreign_net_is_attacked_as_the_plain_one(kind: str, attack: str) -> None:
    net = conv_net()
    foreign = KINDS[kind](net)
    before, mode = copy.deepcopy(net.state_dict()), net.training
    same(foreign, attack)
    assert net.training == mode
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    "compiled",
    [
        compiled_in_place,
        lambda net: torch.compile(net, backend="aot_eager"),
        lambda net: torch.compile(lambda x: net(x), backend="aot_eager"),
    ],
    ids=["in place", "wrapped", "function"],
)
@pytest.mark.slow
def test_a_compiled_net_allows_several_gradients_of_one_pass(compiled: Callable[[nn.Module], Any]) -> None:
    """The compiler gives buffers of the forward pass away in the backward pass, so that a second one raises."""

    def on(rank: int) -> None:
        net = compiled(conv_net())
        for attack in ("fab", "fab-t", "deepfool"):
            same(net, attack)
        with attack_mode(net):
            gradient, _ = input_gradient(lambda z: net(z)[:, 0], X, create_graph=True)
        assert gradient.requires_grad
        (again,) = torch.autograd.grad(conv_net().eval()(x := X.clone().requires_grad_())[:, 0].sum(), x)
        torch.testing.assert_close(gradient, again)

    run_ddp(on, ranks=1)  # in a process of its own: the compiler starts threads, after which no other test could fork


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "record",
    [
        lambda net: torch.jit.trace(net, X, check_trace=False),
        exported,
        lambda net: torch.fx.symbolic_trace(Functional(net)),
    ],
    ids=["traced", "exported", "symbolic with a functional dropout"],
)
@pytest.mark.parametrize("attack", [PGD(steps=1), Square(queries=2)])
def test_graphs_recorded_in_training_mode_are_refused(record: Callable[[nn.Module], Any], attack: Any) -> None:
    graph = record(conv_net())
    before = copy.deepcopy(graph.state_dict())
    with pytest.raises(ValueError, match=r"recorded in training mode.*call eval\(\) before you trace or export it"):
        attack(graph, X, Y)
    assert all(torch.equal(value, before[name]) for name, value in graph.state_dict().items())


class Functional(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.net(x), 0.5, training=self.training)


class WithoutGradient(nn.Module):
    """A head on a backbone that runs under `no_grad`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.head = net, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.net(x)
        return self.head(features)


def quantised(net: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        return torch.ao.quantization.quantize_dynamic(net.eval(), {nn.Linear})


def in_inference_mode(net: nn.Module) -> nn.Module:
    with torch.inference_mode():
        return conv_net()


def set_up_for_half(net: nn.Module) -> Any:
    return Fabric(accelerator="cpu", precision="bf16-mixed").setup(net)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (WithoutGradient, "no gradient with respect to the images .* use Square"),
        (lambda net: torch.jit.optimize_for_inference(torch.jit.script(net.eval())), "no gradient with respect"),
        (lambda net: lambda x: net(x).round(), None),
        (lambda net: lambda x: net(x.detach()), "no gradient with respect to the images"),
        (quantised, r"quantised \(Linear\).*use Square"),
        (in_inference_mode, "made in inference mode"),
        (set_up_for_half, r"attack net\.module instead"),
    ],
    ids=[
        "no_grad",
        "inference alone",
        "rounded",
        "detached",
        "quantised",
        "inference mode",
        "Fabric in half precision",
    ],
)
def test_where_no_gradient_passes_one_sentence_says_so_and_black_box_attacks_work(make: Any, message: str) -> None:
    net = make(conv_net())
    y = logits_no_grad(net, X).argmax(1)
    if message is None:  # zero, and not missing: nothing to refuse
        assert torch.equal(PGD(steps=1, start="none")(net, X, y), X)
        return
    for attack in (PGD(steps=1), FAB(Threat(eps=0.3), steps=1), DeepFool(steps=1), APGD(steps=1), CW(steps=1)):
        with pytest.raises(ValueError, match=message):
            attack(net, X, y)
    x_adv = Square(Threat(eps=0.9), queries=20)(net, X, y)
    assert (logits_no_grad(net, x_adv).argmax(1) != y).any()


def test_the_advice_on_inference_mode_works() -> None:
    """A copy made outside of it is an ordinary net."""
    same(copy.deepcopy(in_inference_mode(conv_net())), "fab")


def test_an_exported_program_says_what_to_call() -> None:
    program = torch.export.export(conv_net().eval(), (X,))
    with pytest.raises(RuntimeError, match=r"use `exported_program\.module\(\)` instead"):
        PGD()(program, X, Y)
