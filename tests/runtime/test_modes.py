import copy

import pytest
import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_robust.attacks import PGD
from lightning_robust.attacks.pad_small_batches import PadSmallBatches
from lightning_robust.losses import cross_entropy
from lightning_robust.runtime.gradients import detached, input_gradient, input_gradients
from lightning_robust.runtime.modes import attack_mode, disable_inference_mode
from lightning_robust.runtime.precision import full_precision
from tests.helpers.toys import conv_net, linear_net

X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3])
MODES = ["eval", "batch", "train"]


def mixed_net():
    """Some modules evaluate, some parameters are frozen, one is shared, one norm keeps no statistics."""
    net = conv_net()
    net[1].eval()
    net[6].eval()
    net[4] = nn.BatchNorm2d(8, track_running_stats=False)
    net[0].weight.requires_grad_(False)
    net[3].bias = net[0].bias
    return net


def flags(net):
    modules = [(m.training, getattr(m, "track_running_stats", None)) for m in net.modules()]
    return modules, [p.requires_grad for p in net.parameters()]


def buffers(net):
    return {name: value.clone() for name, value in net.named_buffers()}


@pytest.mark.parametrize("bn", MODES)
@pytest.mark.parametrize("make", [mixed_net, conv_net, lambda: conv_net().eval()])
def test_every_flag_comes_back(make, bn):
    net = make()
    before = flags(net)
    with attack_mode(net, bn):
        assert all(m.training == (bn != "eval") for m in net.modules())
        assert not any(p.requires_grad for p in net.parameters())
        assert torch.is_grad_enabled()
    assert flags(net) == before
    with pytest.raises(RuntimeError, match="in the attack"), attack_mode(net, bn):
        raise RuntimeError("in the attack")
    assert flags(net) == before


def test_nested_crafting_comes_back_step_by_step():
    net = mixed_net()
    before = flags(net)
    with attack_mode(net, "train"):
        inside = flags(net)
        with attack_mode(net, "eval"):
            assert not net.training
        assert flags(net) == inside
    assert flags(net) == before


def test_an_unknown_mode_is_refused_and_any_callable_is_welcome():
    with pytest.raises(ValueError, match="Unknown attack_bn 'frozen': choose one of eval, batch, train"):
        PGD()(conv_net(), X, Y, bn="frozen")
    net = conv_net().eval()
    torch.testing.assert_close(PGD(start="none")(lambda z: net(z), X, Y), PGD(start="none")(net, X, Y))


@pytest.mark.parametrize("surroundings", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("restarts", [1, 2])
def test_attacks_work_where_gradients_are_off(surroundings, restarts):
    net, attack = conv_net(), PGD(restarts=restarts, start="none")
    eps, step, start = torch.full((4,), 0.1), torch.full((4,), 0.02), (X + 0.01).clamp(0, 1)
    expected = attack(net, X, Y, eps=eps, step_size=step, start=start)
    with surroundings():
        inputs = [tensor.clone() for tensor in (X, Y, eps, step, start)]
        assert inputs[0].is_inference() == (surroundings is torch.inference_mode)
        x_adv = attack(net, *inputs[:2], eps=inputs[2], step_size=inputs[3], start=inputs[4])
        assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled() == (surroundings is torch.inference_mode)
    assert torch.equal(x_adv, expected)


def test_ordinary_detaches_and_copies_only_inference_tensors():
    with torch.inference_mode():
        made_there = torch.ones(2)
    assert not detached(made_there).is_inference()
    leaf = torch.ones(2, requires_grad=True)
    assert not detached(leaf).requires_grad
    assert detached(leaf).data_ptr() == leaf.data_ptr()


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm])
@pytest.mark.parametrize("bn", MODES)
def test_running_statistics_move_only_in_train_mode(norm, bn):
    """Traps 16 and 21: exactly one update a step with "train", none otherwise, for both kinds of batch norm."""
    net = conv_net()
    net[1], net[4] = norm(8), norm(8)
    before = buffers(net)
    PGD(steps=3)(net, X, Y, bn=bn)
    for name, value in net.named_buffers():
        if bn != "train":
            assert torch.equal(value, before[name]), name
        elif name.endswith("num_batches_tracked"):
            assert value == before[name] + 3
        else:
            assert not torch.equal(value, before[name]), name


def test_train_mode_tracks_the_attacked_images():
    net = nn.Sequential(nn.BatchNorm2d(3, momentum=0.25), nn.Flatten(), nn.Linear(192, 4))
    PGD(steps=1, start="none")(net, X, Y, bn="train")
    torch.testing.assert_close(net[0].running_mean, 0.25 * X.mean((0, 2, 3)))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm])
@pytest.mark.parametrize("bn", ["eval", "batch"])
def test_the_statistics_in_force(norm, bn):
    layer = norm(3).eval()
    layer.running_mean += 0.3
    layer.running_var *= 2
    with attack_mode(layer, bn):
        out = layer(X)
    if bn == "eval":
        mean, var = layer.running_mean, layer.running_var
    else:
        mean, var = X.mean((0, 2, 3)), X.var((0, 2, 3), unbiased=False)
    torch.testing.assert_close(out, (X - mean[:, None, None]) / (var[:, None, None] + layer.eps).sqrt())


def test_batch_mode_computes_what_training_computes():
    net = conv_net().eval()
    net[6].p = 0.0
    with attack_mode(net, "batch"):
        out = net(X)
    torch.testing.assert_close(out, copy.deepcopy(net).train()(X))
    assert not torch.allclose(out, net(X), atol=1e-2)


def test_parameter_gradients_are_left_alone():
    """Trap 10: an attack inside an accumulation window must not add to it."""
    net = conv_net()
    for i, parameter in enumerate(net.parameters()):
        parameter.grad = torch.full_like(parameter, 3.0) if i % 2 else None
    PGD(restarts=2)(net, X, Y, bn="train")
    for i, parameter in enumerate(net.parameters()):
        assert (parameter.grad == 3.0).all() if i % 2 else parameter.grad is None


def test_a_crafted_example_carries_no_graph_and_training_goes_on():
    net = conv_net()
    x_adv = PGD()(net, X.clone().requires_grad_(), Y)
    assert not x_adv.requires_grad
    cross_entropy(net(x_adv), Y).mean().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_input_gradient_equals_finite_differences():
    net, x = conv_net().double().eval(), X.double()
    grad, value = input_gradient(lambda z: cross_entropy(net(z), Y), x)
    torch.testing.assert_close(value, F.cross_entropy(net(x), Y, reduction="none"))
    assert not value.requires_grad
    h = 1e-6
    for pixel in [(0, 0, 0), (1, 3, 4), (2, 7, 7)]:
        shift = torch.zeros_like(x)
        shift[(slice(None), *pixel)] = h
        with torch.no_grad():
            slope = (cross_entropy(net(x + shift), Y) - cross_entropy(net(x - shift), Y)) / (2 * h)
        torch.testing.assert_close(grad[(slice(None), *pixel)], slope, rtol=1e-5, atol=1e-8)


def test_several_gradients_from_one_forward_pass_are_those_of_several():
    net, forwards = conv_net().eval(), []
    grads, values = input_gradients(lambda z: forwards.append(len(z)) or net(z)[:, 1:], X)
    assert len(forwards) == 1
    assert not values.requires_grad
    for j in range(3):
        grad, value = input_gradient(lambda z, j=j: net(z)[:, 1 + j], X)
        torch.testing.assert_close(grads[:, j], grad)
        torch.testing.assert_close(values[:, j], value)


class Stored(torch.autograd.Function):
    """The input itself, whose gradient is a tensor that the net owns."""

    gradient = torch.full_like(X, torch.inf)

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return Stored.gradient


@pytest.mark.parametrize("dim", [1, 3, (2, 3)])
def test_a_gradient_that_is_seen_several_times_in_memory(dim):
    """Of a net that begins with a sum, such as from colour to grey: as of a sum written as a product with ones."""
    weights = torch.linspace(-1, 1, X.sum(dim).numel()).view(X.sum(dim).shape)
    grad, _ = input_gradient(lambda z: (z.sum(dim) * weights).flatten(1).sum(1), X)
    expected = torch.autograd.functional.jacobian(lambda z: ((z * torch.ones_like(z)).sum(dim) * weights).sum(), X)
    torch.testing.assert_close(grad, expected, rtol=0, atol=0)
    grads, _ = input_gradients(lambda z: z.sum(dim).flatten(1)[:, :2], X)
    assert grads.sum().item() == 2 * len(X) * X.numel() / X.sum(dim).numel()


def test_a_gradient_that_the_net_owns_stays_as_it_is():
    grad, _ = input_gradient(lambda z: Stored.apply(z).flatten(1).sum(1), X)
    assert (grad == 0).all()
    assert Stored.gradient.isinf().all()


def over_confident_net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(192, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 4)
        )
    net[-1].weight.data *= 0.1
    net[-1].bias.data = torch.tensor([9.0, 0.0, 0.0, 0.0])
    return net


def test_fp16_does_not_lose_the_gradient():
    """Trap 6: the mean's gradient underflows in fp16; the scaled sum's does not, and agrees with single precision."""
    net, x, y = over_confident_net(), torch.rand(64, 3, 8, 8), torch.zeros(64, dtype=torch.long)
    reference, _ = input_gradient(lambda z: cross_entropy(net(z), y), x)
    with torch.autocast("cpu", dtype=torch.float16):
        ours, _ = input_gradient(lambda z: cross_entropy(net(z), y), x)
        z = x.clone().requires_grad_()
        (naive,) = torch.autograd.grad(F.cross_entropy(net(z), y), z)
    assert (reference == 0).float().mean() < 0.01
    assert (naive == 0).float().mean() > 0.5
    assert (ours == 0).float().mean() < 0.01
    torch.testing.assert_close(ours, reference, rtol=0.05, atol=0.05 * float(reference.abs().max()))


def test_fp16_overflow_leaves_no_infinities():
    with torch.autocast("cpu", dtype=torch.float16):
        grad, _ = input_gradient(lambda z: (z.half() * 60000).sum((1, 2, 3)).float(), X)
    assert torch.isfinite(grad).all()


def test_full_precision_turns_autocast_off():
    layer, x = nn.Linear(192, 4), X.flatten(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        with full_precision(x):
            assert layer(x).dtype == torch.float32
        assert layer(x).dtype == torch.bfloat16


class Recorder(LightningModule):
    """Remembers what its test step ran under."""

    def __init__(self, disable):
        super().__init__()
        self.net, self.disable = linear_net(torch.randn(4, 192)), disable

    def setup(self, stage):
        if self.disable:
            disable_inference_mode(self.trainer)

    def test_step(self, batch, batch_idx):
        self.in_inference_mode = torch.is_inference_mode_enabled()


@pytest.mark.parametrize("disable", [False, True])
def test_evaluation_loops_leave_inference_mode(disable):
    module = Recorder(disable)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.test(module, DataLoader(X, batch_size=4), verbose=False)
    assert module.in_inference_mode == (not disable)


class TestSteady:
    x = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def logits_and_gradient(self, rows):
        x = self.x[rows].clone().requires_grad_()
        logits = PadSmallBatches(conv_net(channels=1).eval())(x)
        (grad,) = torch.autograd.grad(cross_entropy(logits, torch.zeros(len(x), dtype=torch.long)).sum(), x)
        return logits.detach(), grad

    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 12, 15, 16, 17, 31])
    def test_a_sample_has_the_same_bits_in_any_batch(self, n, threads):
        torch.set_num_threads(threads)
        try:
            self.same_bits(n)
        finally:
            torch.set_num_threads(1)

    def same_bits(self, n):
        whole, whole_grad = self.logits_and_gradient(torch.arange(32))
        rows = torch.arange(31, -1, -1)[:n]
        part, part_grad = self.logits_and_gradient(rows)
        assert torch.equal(part, whole[rows])
        assert torch.equal(part_grad, whole_grad[rows])

    def test_no_images_stay_no_images(self):
        assert PadSmallBatches(conv_net(channels=1).eval())(self.x[:0]).shape == (0, 4)

    def test_the_nets_mode_is_set_through_it(self):
        net = conv_net(channels=1)
        with attack_mode(PadSmallBatches(net)):
            assert not net.training
        assert net.training
