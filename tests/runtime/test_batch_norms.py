"""Batch norms with another backward pass compute what they always do, and are themselves again afterwards."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_robust.runtime.batch_norms import fast_bn_backward
from lightning_robust.runtime.gradients import input_gradient
from lightning_robust.runtime.modes import attack_mode
from tests.helpers.toys import conv_net

GENERATOR = torch.Generator().manual_seed(0)
SHAPES: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "flat": (nn.BatchNorm1d, (5, 4)),
    "1d": (nn.BatchNorm1d, (5, 4, 3)),
    "2d": (nn.BatchNorm2d, (5, 4, 3, 3)),
    "3d": (nn.BatchNorm3d, (5, 4, 2, 2, 2)),
}


def norm(kind: Any, **settings: Any) -> Any:
    made = kind(4, **settings).double().eval()
    for tensor in (made.running_mean, made.weight, made.bias):
        if tensor is not None:
            tensor.data.normal_(generator=GENERATOR)
    made.running_var.uniform_(0.01, 3, generator=GENERATOR)
    return made.requires_grad_(False)


def passed(module: Any, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    out = module(x)
    return out, torch.autograd.grad((out * weight).sum(), x)[0]


@pytest.mark.parametrize("settings", [{}, {"affine": False}, {"eps": 0.5}], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_are_torchs(shape: str, settings: Any) -> None:
    kind, size = SHAPES[shape]
    module, (x, weight) = norm(kind, **settings), torch.randn(2, *size, generator=GENERATOR, dtype=torch.float64)
    expected = passed(module, x, weight)
    with fast_bn_backward(module.modules()):
        assert "forward" in vars(module)
        got = passed(module, x, weight)
    assert torch.equal(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1], rtol=1e-12, atol=1e-12)
    assert type(got[0].grad_fn).__name__ == "_FastNormBackward"
    assert "forward" not in vars(module)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_bf16_outputs_are_torchs_and_gradients_are_exact_but_for_two_roundings(dtype: torch.dtype) -> None:
    module, (x, weight) = norm(nn.BatchNorm2d).to(dtype), torch.randn(2, 9, 4, 5, 5, generator=GENERATOR).bfloat16()
    expected = passed(module, x, weight)
    with fast_bn_backward([module]):
        got = passed(module, x, weight)
    assert torch.equal(got[0], expected[0])
    assert got[1].dtype == torch.bfloat16
    assert type(got[0].grad_fn).__name__ == "_FastNormBackward"
    exact = weight.double() * (module.weight / (module.running_var.double() + module.eps).sqrt()).view(-1, 1, 1)
    worst = ((got[1].double() - exact) / exact).abs().max()
    assert 2**-8 < worst <= 2**-7 * (1 + 2**-8)  # each rounds by 2^-8 at most; one alone would be torch's


def test_attacks_meet_it_and_every_module_is_itself_again() -> None:
    net, x = conv_net().eval(), torch.rand(6, 3, 8, 8, generator=GENERATOR)
    plain = copy.deepcopy(net)
    seen = []
    net[1].register_forward_hook(lambda module, inputs, out: seen.append(type(out.grad_fn).__name__))
    with attack_mode(net):
        grad, _ = input_gradient(lambda z: net(z).square().sum(1), x)
        with attack_mode(net), torch.no_grad():  # a call within a call
            net(x)
        input_gradient(lambda z: net(z).sum(1), x)
        with torch.autocast("cpu", torch.bfloat16):
            input_gradient(lambda z: net(z).sum(1), x)
        with torch.autocast("cpu", torch.float16):
            input_gradient(lambda z: net(z).sum(1), x)
    assert seen == ["_FastNormBackward", "NoneType", *["_FastNormBackward"] * 2, "NativeBatchNormBackward0"]
    expected, _ = input_gradient(lambda z: plain(z).square().sum(1), x)
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-7)
    assert not any("forward" in vars(module) for module in net.modules())
    with pytest.raises(RuntimeError, match="within"), attack_mode(net):
        raise RuntimeError("within")
    assert not any("forward" in vars(module) for module in net.modules())


def test_a_forward_of_ones_own_is_kept_with_its_gradient() -> None:
    module = norm(nn.BatchNorm2d)
    own = module.forward = lambda x: 2 * x
    with fast_bn_backward([module]):
        _, grad = passed(module, torch.ones(1, 4, 1, 1), torch.ones(1, 4, 1, 1))
    assert torch.equal(grad, 2 * torch.ones(1, 4, 1, 1))
    assert module.forward is own


def test_what_changes_within_is_noticed() -> None:
    """A net may train, adapt or condition its norms in the middle of its forward pass."""
    module, (x, weight) = norm(nn.BatchNorm2d), torch.randn(2, 5, 4, 3, 3, generator=GENERATOR, dtype=torch.float64)
    condition = torch.rand(4, dtype=torch.float64, requires_grad=True)

    def conditioned(z: Tensor) -> Tensor:
        return functional_call(module, {"weight": condition * z.mean()}, z)

    changes: list[Any] = [
        lambda: module.weight.data.mul_(2),
        lambda: module.running_var.mul_(2),
        lambda: module.train(),
        lambda: module.eval(),
    ]
    with fast_bn_backward([module]):
        passed(module, x, weight)
        for change in changes:
            change()
            state = copy.deepcopy({name: value for name, value in module.state_dict().items()})
            got = passed(module, x, weight)
            plain = norm(nn.BatchNorm2d).train(module.training)
            plain.load_state_dict(state)
            torch.testing.assert_close(got, passed(plain, x, weight))
        got = passed(conditioned, x, weight)
    torch.testing.assert_close(got, passed(conditioned, x, weight))


def test_functional_transforms_meet_torchs_own() -> None:
    module, x = norm(nn.BatchNorm2d), torch.rand(2, 4, 3, 3, generator=GENERATOR, dtype=torch.float64)

    def value(z: Tensor) -> Tensor:
        return torch.func.grad(lambda w: module(w).square().sum())(z).sum()

    with fast_bn_backward([module]):
        got = torch.autograd.grad(value(x.requires_grad_()), x)
    torch.testing.assert_close(got, torch.autograd.grad(value(x), x))


def test_attacks_that_overlap_leave_nothing_behind() -> None:
    module = norm(nn.BatchNorm2d)
    first, second = fast_bn_backward([module]), fast_bn_backward([module])
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert "forward" not in vars(module)


@pytest.mark.parametrize(
    "other",
    [
        lambda: nn.BatchNorm2d(4, track_running_stats=False).eval(),
        lambda: nn.LazyBatchNorm2d().eval(),
        lambda: nn.InstanceNorm2d(4, track_running_stats=True).eval(),
    ],
    ids=["no statistics", "another class", "instance norm"],
)
def test_others_are_left_alone(other: Any) -> None:
    module = other()
    with fast_bn_backward([module]):
        assert "forward" not in vars(module)


@pytest.mark.slow
def test_compiled_nets_are_left_alone() -> None:
    net = conv_net().eval()
    net.compile()
    for compiled in (net, torch.compile(conv_net().eval())):
        with fast_bn_backward(compiled.modules()):
            assert not any(isinstance(m, nn.BatchNorm2d) and "forward" in vars(m) for m in compiled.modules())


def test_images_of_another_shape_are_refused_as_ever() -> None:
    module = norm(nn.BatchNorm2d)
    with fast_bn_backward([module]), pytest.raises(ValueError, match="expected 4D input"):
        module(torch.ones(1, 4, 1, dtype=torch.float64, requires_grad=True))
