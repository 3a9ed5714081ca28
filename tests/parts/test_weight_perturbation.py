"""Perturbations of the weights by hand on linear nets, and what must not move."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_robust.attacks import PGD
from lightning_robust.defenses import AT, Standard
from lightning_robust.parts import ASAM, SAM, WeightPerturbation
from lightning_robust.parts import AdversarialWeightPerturbation as AWP
from lightning_robust.parts import RobustWeightPerturbation as RWP
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Losses, Views
from tests.helpers.ddp import process_group, quiet_trainer, run_ddp
from tests.helpers.few import norm_net, plain_net
from tests.helpers.foreign import images, loader

X, Y = images(8).tensors
PIXELS = X.double().flatten(1).numpy()
FIXED = PGD(Threat(eps=0.1), steps=2, start="none")
Arrays = list[np.ndarray[Any, Any]]


def two_layers() -> nn.Sequential:
    """Linear, so that back-propagation is two lines."""
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 3)).double()


def loss_of(net: nn.Module, x: Tensor = X, y: Tensor = Y) -> Callable[[], Tensor]:
    dtype = next(net.parameters()).dtype
    return lambda: cross_entropy(net(x.to(dtype)), y, reduction="none")


def weights(net: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in net.state_dict().values()]


def by_hand(net: nn.Sequential, below: float = np.inf, at: Arrays | None = None) -> Arrays:
    """The gradient of mean(1[CE < below] CE) in the two weights, at these weights or the net's own."""
    (w1, b1), (w2, b2) = ((p.detach().numpy() for p in layer.parameters()) for layer in (net[1], net[2]))
    if at is not None:
        w1, w2 = at
    hidden = PIXELS @ w1.T + b1
    logits = hidden @ w2.T + b2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    error = p - np.eye(3)[Y.numpy()]
    error *= (-np.log(p[range(8), Y.numpy()]) < below)[:, None] / 8
    return [(error @ w2).T @ PIXELS, error.T @ hidden]


def matrices(net: nn.Sequential) -> Arrays:
    return [net[i].weight.detach().numpy().copy() for i in (1, 2)]


class Sum(nn.Module):
    """A linear map by the sum of two weights: their gradients are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(6, 3, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.flatten(1)[:, :6], self.first.weight + self.second.weight)


def test_awp_moves_weights_that_share_a_gradient() -> None:
    torch.manual_seed(0)
    net, x, y = Sum(), torch.rand(5, 6), torch.tensor([0, 1, 2, 0, 1])
    before = [w.detach().clone() for w in net.parameters()]
    AWP(gamma=0.01)(net, loss_of(net, x, y), 0)
    for weight, old in zip(net.parameters(), before, strict=True):
        assert float((weight.detach() - old).norm() / old.norm()) == pytest.approx(0.01, rel=1e-4)


def test_awp_moves_each_layer_along_its_gradient_by_gamma_times_its_norm() -> None:
    net = two_layers()
    start, gradient = matrices(net), by_hand(net)
    AWP(0.1)(net, loss_of(net), epoch=0)
    for moved, w, g in zip(matrices(net), start, gradient, strict=True):
        np.testing.assert_allclose(moved, w + 0.1 * np.linalg.norm(w) * g / np.linalg.norm(g), rtol=1e-10, atol=1e-14)


def global_norm(arrays: Arrays) -> float:
    return float(np.sqrt(sum((a**2).sum() for a in arrays)))


@pytest.mark.parametrize("steps", [1, 3])
def test_rwp_follows_the_easy_samples_by_one_norm_for_all_layers(steps: int) -> None:
    net = two_layers()
    start, each = matrices(net), loss_of(net)().detach().sort().values
    threshold = float(each[3:5].mean())  # four of eight are easy
    walked, moved = [0 * w for w in start], start
    for _ in range(steps):
        walked = [a + g for a, g in zip(walked, by_hand(net, threshold, moved), strict=True)]
        scale = 0.1 * global_norm(start) / global_norm(walked)
        moved = [w + scale * a for w, a in zip(start, walked, strict=True)]
    RWP(0.1, threshold, steps)(net, loss_of(net), epoch=0)
    for ours, theirs in zip(matrices(net), moved, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-14)


def test_rwp_does_not_move_where_no_sample_is_easy() -> None:
    net = two_layers()
    before = weights(net)
    threshold = float(loss_of(net)().detach().min())
    RWP(0.1, threshold)(net, loss_of(net), epoch=0)
    torch.testing.assert_close(weights(net), before, rtol=0, atol=0)
    RWP(0.1, threshold + 1e-6)(net, loss_of(net), epoch=0)
    assert not torch.equal(net[1].weight, before[0])


LAYERS = {"AWP": AWP, "RWP": lambda *args: RWP(args[0], 10.0, 2, *args[1:])}
EVERY = {**LAYERS, "SAM": SAM, "ASAM": lambda *args: ASAM(args[0], 0.01, *args[1:])}
LAYERED = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
EACH = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)


@EACH
def test_weights_in_half_precision_without_a_gradient_stay(make: Any) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(X[0].numel(), 3)).half()
    net.register_module("unused", nn.Linear(2, 2).half())
    unused = net.unused.weight.detach().clone()
    make(0.1)(net, lambda: cross_entropy(net[1](net[0](X.half())).float(), Y, reduction="none"), 0)
    assert torch.equal(net.unused.weight, unused)
    assert net[1].weight.isfinite().all()
    make(0.1)(net, lambda: 0 * net[1](net[0](X.half())).float().sum(1), 0)
    assert net[1].weight.isfinite().all()


@LAYERED
def test_biases_batch_norms_and_frozen_weights_stay(make: Any) -> None:
    net = nn.Sequential(norm_net(), nn.BatchNorm1d(3), nn.Linear(3, 3))
    net.register_module("unused", nn.Linear(2, 2))
    net[2].weight.requires_grad_(False)

    def loss() -> Tensor:
        return cross_entropy(net[2](net[1](net[0](X))), Y, reduction="none")

    before = {k: v.clone() for k, v in net.state_dict().items()}
    restore = make(0.1)(net, loss, 0)
    moved = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"0.1.weight", "0.4.weight"}
    assert all(p.grad is None for p in net.parameters())
    restore()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@EACH
def test_until_the_start_epoch_nothing_moves(make: Any) -> None:
    net = two_layers()
    before = weights(net)
    make(0.1, 2)(net, loss_of(net), 1)()
    torch.testing.assert_close(weights(net), before, rtol=0, atol=0)
    make(0.1, 2)(net, loss_of(net), 2)
    assert not torch.equal(net[1].weight, before[0])


@EACH
@pytest.mark.parametrize("call", [1, 2])
def test_the_weights_come_back_exactly_if_the_loss_raises_on_the_way(make: Any, call: int) -> None:
    net, calls = norm_net(), 0

    def loss() -> Tensor:
        nonlocal calls
        calls += 1
        out = cross_entropy(net(X), Y, reduction="none")
        if calls == call:
            raise RuntimeError("in the loss")
        return out

    before = weights(net)
    try:
        make(0.1)(net, loss, 0)()
    except RuntimeError:
        assert calls == call
    torch.testing.assert_close(weights(net), before, rtol=0, atol=0)
    assert net[0].track_running_stats


class Raising(AT):
    """Raises at the perturbed weights: after the check's two evaluations of the loss and the
    perturbation's own, in the fourth, or in its backward pass."""

    where, calls = "", 0

    def loss(self, batch: Batch, views: Views) -> Losses:
        losses = super().loss(batch, views)
        self.calls += 1
        if self.calls == 4 and self.where == "loss":
            raise RuntimeError("in the loss")
        if self.calls == 4 and self.where == "backward pass":
            losses.total.register_hook(self._raise)
        return losses

    def _raise(self, grad: Tensor) -> Tensor:
        raise RuntimeError("in the backward pass")


@pytest.mark.parametrize("where", ["loss", "backward pass"])
@pytest.mark.parametrize("restore", ["before_step", "after_step"])
def test_a_training_step_that_raises_leaves_the_weights_exact(where: str, restore: Any) -> None:
    defense = Raising(plain_net(), attack=FIXED, weight_perturbation=AWP(0.1, restore=restore))
    defense.where = where
    with pytest.raises(RuntimeError, match=f"in the {where}"):
        quiet_trainer(max_epochs=1).fit(defense, loader(4))
    if restore == "before_step":
        torch.testing.assert_close(weights(defense.net), weights(plain_net()), rtol=0, atol=0)
    else:
        torch.testing.assert_close(weights(defense.net), weights(plain_net()))  # a difference subtracted again


RATE, DECAY, GAMMA = 0.1, 0.3, 0.05


def trained(restore: Any, accumulate: int = 1, seen: list[list[Tensor]] | None = None) -> list[Tensor]:
    class Watch(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            assert seen is not None
            seen.append(weights(module.net))

    defense = AT(
        plain_net(dtype=torch.float64),
        attack=FIXED,
        weight_perturbation=AWP(GAMMA, restore=restore),
        optimizer=lambda params: torch.optim.SGD(params, lr=RATE, weight_decay=DECAY),
    )
    trainer = quiet_trainer(
        max_epochs=1,
        precision="64-true",
        accumulate_grad_batches=accumulate,
        callbacks=[] if seen is None else [Watch()],
    )
    trainer.fit(defense, loader(8))
    return weights(defense.net)


def loop(restore: str, accumulate: int = 1) -> tuple[list[Tensor], list[Tensor]]:
    """The same two batches as the authors write them; also the last step's perturbation."""
    net = plain_net(dtype=torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, weight_decay=DECAY)
    optimizer.zero_grad()
    for i, (x, y) in enumerate(loader(8)):
        x_adv = FIXED(net, x.double(), y)
        gradient = torch.autograd.grad(cross_entropy(net(x_adv), y), list(net.parameters()))
        moves = [
            GAMMA * w.norm() / g.norm() * g if w.dim() > 1 else 0 * g
            for w, g in zip(weights(net), gradient, strict=True)
        ]
        steps = (i + 1) % accumulate == 0
        with torch.no_grad():
            for w, v in zip(net.parameters(), moves, strict=True):
                w += v
        (cross_entropy(net(x_adv), y) / accumulate).backward()
        if steps and restore == "after_step":
            optimizer.step()
        with torch.no_grad():
            for w, v in zip(net.parameters(), moves, strict=True):
                w -= v
        if steps:
            if restore == "before_step":
                optimizer.step()
            optimizer.zero_grad()
    return weights(net), moves


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("restore", ["before_step", "after_step"])
def test_the_order_is_that_of_a_loop_by_hand(restore: Any, accumulate: int) -> None:
    torch.testing.assert_close(trained(restore, accumulate), loop(restore, accumulate)[0], rtol=1e-11, atol=1e-13)


def test_the_two_orders_differ_by_the_decay_of_the_perturbation() -> None:
    # one optimizer step, so that both start from the same weights
    early, late = trained("before_step", accumulate=2), trained("after_step", accumulate=2)
    _, moves = loop("after_step", accumulate=2)
    for a, b, v in zip(early, late, moves, strict=True):
        torch.testing.assert_close(a - b, RATE * DECAY * v, rtol=1e-9, atol=1e-15)
    assert max(float(v.abs().max()) for v in moves) > 1e-3


@pytest.mark.parametrize("restore", ["before_step", "after_step"])
def test_between_steps_the_weights_are_the_unperturbed_ones_also_while_gradients_accumulate(restore: Any) -> None:
    seen: list[list[Tensor]] = []
    trained(restore, accumulate=2, seen=seen)
    exact = {"rtol": 0, "atol": 0} if restore == "before_step" else {"rtol": 1e-12, "atol": 1e-15}
    torch.testing.assert_close(seen[0], weights(plain_net(dtype=torch.float64)), **exact)
    assert not torch.allclose(seen[1][0], seen[0][0], rtol=1e-6)


@EACH
def test_ranks_move_alike_and_as_one_process_on_their_batches_joined(make: Any) -> None:
    def on(rank: int) -> list[Tensor]:
        with process_group():
            net = plain_net(dtype=torch.float64)
            make(0.1)(net, loss_of(net, X[rank::2], Y[rank::2]), 0)
            return weights(net)

    alone = plain_net(dtype=torch.float64)
    make(0.1)(alone, loss_of(alone), 0)
    first, second = run_ddp(on)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, weights(alone), rtol=1e-10, atol=1e-12)


@EACH
def test_autocast_sees_the_perturbed_weights(make: Any) -> None:
    net = plain_net()
    loss = loss_of(net)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=True):
        clean = loss().detach()
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(2)
            assert torch.equal(loss(), clean)  # the trap: the cache still holds the old weights
            for p in net.parameters():
                p.div_(2)
        restore = make(0.5)(net, loss, 0)
        assert loss().mean() > clean.mean() + 0.01
        restore()
        assert torch.equal(loss(), clean)


def test_on_standard_training_it_raises_the_loss() -> None:
    """What it is for: the loss at the perturbed weights is the one that is minimised."""
    logged = {}
    for gamma in (0.0, 0.2):
        defense = Standard(
            plain_net(),
            weight_perturbation=AWP(gamma),
            optimizer=lambda p: torch.optim.SGD(p, lr=0.0),
        )
        trainer = quiet_trainer(max_epochs=1)
        trainer.fit(defense, loader(8))
        logged[gamma] = float(trainer.callback_metrics["train/loss"])
    expected = [float(loss_of(plain_net())().detach().mean()), logged[0.2]]
    assert logged[0.0] == pytest.approx(expected[0], rel=1e-6)
    assert logged[0.2] > logged[0.0] + 0.01


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AWP(-0.1), "gamma must be >= 0, got -0.1"),
        (lambda: RWP(-0.1), "gamma must be >= 0, got -0.1"),
        (lambda: RWP(steps=0), "steps must be >= 1, got 0"),
        (lambda: SAM(-0.1), "rho must be >= 0, got -0.1"),
        (lambda: ASAM(-0.1), "rho must be >= 0, got -0.1"),
        (lambda: ASAM(eta=-0.1), "eta must be >= 0, got -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], WeightPerturbation], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("perturbation", [AWP(0.1), RWP(0.1, threshold=1.0, steps=2), SAM(), ASAM()])
def test_small_gradients_survive_fp16(perturbation: WeightPerturbation) -> None:
    """At a loss of some 1e-6, gradients of activations lie below fp16's smallest number; scaled, they do not."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 3))
    with torch.no_grad():
        net[3].weight.mul_(0.05)
        net[3].bias.copy_(torch.tensor([14.0, 0.0, 0.0]))
    y = torch.zeros(len(X), dtype=torch.long)

    def moved(scale: Tensor | None, dtype: torch.dtype | None) -> Tensor:
        before = net[1].weight.detach().clone()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            perturbation.scale = scale
            restore = perturbation(net, loss_of(net, X, y), 0)
        after = net[1].weight.detach().clone()
        restore()
        return (after - before).flatten()

    exact = moved(None, None)
    cosine = torch.cosine_similarity(moved(torch.tensor(65536.0), torch.float16), exact, dim=0)
    assert cosine > 0.999
    assert torch.cosine_similarity(moved(None, torch.float16), exact, dim=0) < 0.99  # without, some are lost
    overflown = moved(torch.tensor(1e38), torch.float16)
    assert not overflown.any()
