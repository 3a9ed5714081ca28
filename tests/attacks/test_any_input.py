"""Every attack and plain function takes input of any shape and type that it does not refuse, and refuses the rest."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_robust.attacks import APGD, CW, DDN, FAB, PDPGD, PGD, Attack, DeepFool, HopSkipJump, Square
from lightning_robust.attacks.functional import (
    apgd,
    autoattack,
    cw,
    deepfool,
    fab,
    minimum_norms,
    pgd,
    square,
    squeeze,
)
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from tests.helpers.each_attack import each
from tests.helpers.toys import conv_net, linear_net

X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(4)
WEIGHT = torch.randn(4, 64, generator=torch.Generator().manual_seed(2)) / 8
EVERY_NORM: list[Attack] = [
    kind(Threat(norm, eps), **few)
    for norm, eps in (("linf", 0.1), ("l2", 0.5), ("l1", 2.0))
    for kind, few in (
        (PGD, {"steps": 3}),
        (APGD, {"steps": 4}),
        (Square, {"queries": 20}),
        (FAB, {"steps": 3}),
        (DeepFool, {"steps": 3}),
        (CW, {"steps": 5, "search_steps": 2, "lr": 0.1}),
    )
    if norm in kind.norms
]
every_norm = pytest.mark.parametrize("attack", EVERY_NORM, ids=lambda a: f"{type(a).__name__} {a.threat.norm}")
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "pgd": pgd,
    "apgd": lambda *args: apgd(*args, steps=2),
    "fab": lambda *args: fab(*args, steps=2),
    "square": lambda *args: square(*args, queries=2),
    "cw": lambda *args: cw(*args, steps=2),
    "deepfool": lambda *args: deepfool(*args, steps=2),
    "autoattack": lambda *args: autoattack(*args, version="rapid"),
    "squeeze": lambda *args: squeeze(*args, Threat(), steps=1, step_size="2/255"),
    "minimum_norms": lambda *args: minimum_norms(FAB(steps=2), *args),
}
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
REFUSED: dict[str, tuple[type[Exception], str, Tensor, Tensor]] = {
    "normalised": (ValueError, r"must lie in \[0, 1\] but range over", X * 4 - 2, Y),
    "times 255": (ValueError, "must lie in", X * 255, Y),
    "bytes": (TypeError, "must be floating-point", (X * 255).byte(), Y),
    "NaN": (ValueError, "contain NaN", X.masked_fill(X > 0.99, torch.nan), Y),
    "bfloat16": (TypeError, "round a radius of 8/255 away", X.bfloat16(), Y),
    "label -1": (ValueError, "Labels must be at least 0", X, Y - 1),
    "label k": (ValueError, "below the net's 4 outputs", X, Y + 1),
    "column of labels": (TypeError, "give y.flatten", X, Y[:, None]),
    "one-hot": (TypeError, r"y.argmax\(1\) of one-hot", X, torch.eye(4).long()),
    "logits as soft labels": (ValueError, "must be probabilities, but they go down to -1", X, 2 * torch.eye(4) - 1),
    "soft labels of more classes": (ValueError, "have 5 columns, but the net has 4", X, torch.eye(4, 5)),
}


@each_function
@pytest.mark.parametrize("bad", REFUSED)
def test_plain_functions_refuse_bad_input(function: Callable[..., Any], bad: str) -> None:
    error, told, x, y = REFUSED[bad]
    with pytest.raises(error, match=told):
        function(conv_net(), x, y)


@each_function
def test_plain_functions_warn_of_probabilities(function: Callable[..., Any]) -> None:
    with pytest.warns(UserWarning, match="look like probabilities"):
        function(nn.Sequential(conv_net(), nn.Softmax(1)), X, Y)


@pytest.mark.parametrize("function", [pgd, apgd, fab, square, autoattack, lambda *a, eps: deepfool(*a, "linf", eps)])
def test_plain_functions_refuse_a_radius_in_levels(function: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"larger than the box \[0, 1\]: write '8/255'"):
        function(conv_net(), X, Y, eps=8)


def test_only_in_linf_and_a_finite_box_a_radius_is_too_large() -> None:
    assert Threat("l2", 8).eps == Threat("linf", 8, -torch.inf, torch.inf).eps == Threat("linf", 8, 0, 255).eps == 8
    with pytest.raises(ValueError, match=r"larger than the box \[-1, 1\]"):
        Threat("linf", 2.1, -1, 1)


def test_radii_and_steps_may_be_fractions_everywhere() -> None:
    net = conv_net()
    near = [FAB(steps=5).nearest(net, X, Y, enough=enough) for enough in ("1/2", 0.5)]
    assert torch.equal(*near)
    options: dict[str, Any] = {"steps": 2, "bn": "eval"}
    pairs = [squeeze(net, X, Y, Threat(), step_size=s, rng=SampleRNG(0, Y), **options) for s in ("2/255", 2 / 255)]
    assert all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))
    with pytest.raises(ValueError, match="step_size must be finite"):
        squeeze(net, X, Y, Threat(), steps=2, step_size=-1)


@each
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_labels_of_any_integer_type_are_the_same(attack: Attack, dtype: torch.dtype) -> None:
    net, rng = conv_net(), SampleRNG(0, Y)
    assert torch.equal(attack(net, X, Y.to(dtype), rng=rng), attack(net, X, Y, rng=SampleRNG(0, Y)))


@each
@pytest.mark.parametrize("shape", [(3, 8, 8), (5,), (2, 6)])
def test_an_empty_batch_stays_empty(attack: Attack, shape: tuple[int, ...]) -> None:
    net = conv_net() if len(shape) == 3 else nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    net(torch.rand(2, *shape))
    assert attack(net, torch.rand(0, *shape), Y[:0]).shape == (0, *shape)
    assert attack(net, torch.rand(0, *shape), Y[:0], eps=torch.zeros(0)).shape == (0, *shape)


def test_minimum_norms_and_squeeze_of_an_empty_batch() -> None:
    for attack in (FAB(), FAB(targets=2), DeepFool(), CW()):
        assert minimum_norms(attack, conv_net(), X[:0], Y[:0]).shape == (0,)
    assert squeeze(conv_net(), X[:0], Y[:0], Threat(), steps=1, step_size=0.1, bn="eval")[0].shape == (0, 3, 8, 8)


SHAPES = [(13,), (24,), (2, 9), (3, 16), (1, 1), (1, 2, 4, 4), (2, 3, 2, 5, 4)]


@every_norm
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_input_of_any_shape_is_attacked(attack: Attack, shape: tuple[int, ...]) -> None:
    """A linear net is attacked as well when its input has another shape: for each of these, some samples fall."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), 3))
    x = 0.3 + 0.4 * torch.rand(32, *shape)
    y = net(x).argmax(1)
    x_adv = attack(net, x, y, eps=2 * attack.threat.eps)
    assert x_adv.shape == x.shape
    assert (attack.threat.distance(x_adv, x) <= 2 * attack.threat.eps + 1e-5).all()
    assert (net(x_adv).argmax(1) != y).any()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_square_searches_other_shapes_as_images_of_the_same_values(norm: Any) -> None:
    torch.manual_seed(0)
    x, net, rng = torch.rand(6, 3, 4, 4), nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), lambda: SampleRNG(0, Y[:1])
    for i, shape in ((0, (3, 16)), (1, (3, 2, 2, 4))):
        one, y = x[i : i + 1], net(x[i : i + 1]).argmax(1)
        image = Square(Threat(norm, 0.3), queries=30)(net, one, y, rng=rng())
        other = Square(Threat(norm, 0.3), queries=30)(net, one.view(1, *shape), y, rng=rng())
        assert torch.equal(other.view_as(image), image)


class Meta(Tensor):
    """As MONAI's `MetaTensor`: results are of the class too, and carry what the arguments do."""

    affine: Tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(out, Meta):
            out.affine = next(a.affine for a in args if isinstance(a, Meta))  # fails for lists of tensors
        return out


def meta(x: Tensor) -> Tensor:
    out: Meta = x.clone().as_subclass(Meta)
    out.affine = torch.eye(4)
    return out


@each
def test_subclasses_of_tensor_are_taken_as_plain_tensors(attack: Attack) -> None:
    net, rng = conv_net(), lambda: SampleRNG(0, Y)
    eps = torch.full((4,), 0.1)
    plain = attack(net, X, Y, eps=eps, rng=rng())
    for x, y in ((meta(X), meta(Y)), (nn.Parameter(X), Y), (X, meta(Y))):
        found = attack(net, x, y, eps=meta(eps), rng=rng())
        assert type(found) is Tensor
        assert torch.equal(found, plain)


def test_starts_and_squeezed_images_of_a_subclass() -> None:
    net, rng = conv_net(), lambda: SampleRNG(0, Y)
    start = PGD(steps=2)(net, meta(X), meta(Y), start=meta(X))
    assert torch.equal(start, PGD(steps=2)(net, X, Y, start=X))
    for one, other in zip(
        squeeze(net, meta(X), meta(Y), Threat(), steps=2, step_size=0.01, bn="eval", rng=rng()),
        squeeze(net, X, Y, Threat(), steps=2, step_size=0.01, bn="eval", rng=rng()),
        strict=True,
    ):
        assert type(one) is Tensor
        assert torch.equal(one, other)
    assert type(minimum_norms(FAB(steps=2), net, meta(X), meta(Y))) is Tensor


@pytest.fixture
def default_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@every_norm
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("default_float64")
def test_the_default_type_does_not_matter(attack: Attack, dtype: torch.dtype) -> None:
    net = conv_net().to(dtype)
    found = attack(net, X.to(dtype), Y, rng=SampleRNG(0, Y))
    torch.set_default_dtype(torch.float32)
    assert torch.equal(found, attack(net, X.to(dtype), Y, rng=SampleRNG(0, Y)))


@every_norm
def test_weights_of_another_type_than_the_images_are_refused(attack: Attack) -> None:
    for net, x in ((conv_net().bfloat16(), X), (conv_net().half(), X), (conv_net(), X.double())):
        with pytest.raises(TypeError, match=r"weights are torch\.\w+ and the images torch\.\w+, and the net fails"):
            attack(net, x, Y)


class InHalf(nn.Module):
    """A net in half precision that converts the images it is given."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.net = conv_net().to(dtype)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x.to(self.dtype))
        return out


@every_norm
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_net_that_computes_in_half_precision_is_attacked(attack: Attack, dtype: torch.dtype) -> None:
    net = InHalf(dtype).eval()
    x = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    y = net(x).argmax(1)
    x_adv = attack(net, x, y, eps=4 * attack.threat.eps)
    assert x_adv.dtype == torch.float32
    assert (net(x_adv).argmax(1) != y).any()


class Grey(nn.Module):
    """From colour to grey, by a sum whose gradient is one plane seen three times, or by a product with ones."""

    def __init__(self, product: bool) -> None:
        super().__init__()
        self.product, self.head = product, linear_net(WEIGHT)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x * torch.ones_like(x)).sum(1) if self.product else x.sum(1))


@each
def test_a_net_that_begins_with_a_sum(attack: Attack) -> None:
    found, y = [], Grey(product=True)(X).argmax(1)
    for product in (True, False):
        torch.manual_seed(0)
        found.append(attack(Grey(product).eval(), X, y))
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)
    assert isinstance(attack, (CW, DDN, PDPGD, HopSkipJump)) or (found[0] != X).any()  # whose few steps find none
