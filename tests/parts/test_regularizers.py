"""Penalties on input gradients, against finite differences of finite differences."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_robust.attacks import PGD
from lightning_robust.defenses import EMR
from lightning_robust.parts.regularizers import EffectiveWeightNorm, InputGradient, Regularizer
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Views
from tests.helpers.ddp import process_group, quiet_trainer, run_ddp
from tests.helpers.few import norm_net, plain_net
from tests.helpers.foreign import images, loader
from tests.helpers.toys import finite_differences

X, Y = images(4).tensors
ADV = images(4, seed=9).tensors[0]
BATCH, VIEWS = Batch(X.double(), Y), Views(ADV.double())


class Attention(nn.Module):
    """Rows of the image as tokens of one encoder layer, through torch's fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.5, activation="gelu", batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x[:, 0]).mean(1))


def attention() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Attention().double()


def normed() -> nn.Module:
    """In training mode, with running statistics that no batch has."""
    net = norm_net().double()
    net[0].running_mean.fill_(0.3)
    net[0].running_var.fill_(0.2)
    return net


def slopes(net: nn.Module, x: Tensor, h: float = 1e-3) -> Tensor:
    """d logits / d pixels [b k d] by central differences of fourth order, the net in evaluation mode."""
    d = x[0].numel()
    step = h * torch.eye(d, dtype=x.dtype).view(1, d, *x.shape[1:])
    net.eval()
    far, near, back, rear = (net((x[:, None] + f * step).flatten(0, 1)) for f in (2, 1, -1, -2))
    net.train()
    return ((rear - far + 8 * (near - back)) / (12 * h)).view(len(x), d, -1).transpose(1, 2)


def probabilities(net: nn.Module, x: Tensor, temperature: float = 1.0) -> Tensor:
    net.eval()
    p = torch.softmax(net(x) / temperature, dim=1).detach()
    net.train()
    return p


@pytest.mark.parametrize(
    "make", [lambda: plain_net(dtype=torch.float64), normed, attention], ids=["conv", "bn", "sdpa"]
)
def test_emr_and_its_gradient_equal_finite_differences(make: Callable[[], nn.Module]) -> None:
    net = make()
    penalty = EffectiveWeightNorm(0.7, temperature=2.0)(net, BATCH, VIEWS, epoch=0)
    p = probabilities(net, VIEWS.adv, temperature=2.0)  # held constant

    def value() -> Tensor:
        return 0.7 * torch.einsum("bk,bkd->bd", p, slopes(net, VIEWS.adv)).square().sum(1)

    torch.testing.assert_close(penalty, value(), rtol=1e-6, atol=1e-9)
    gradient = torch.autograd.grad(penalty.mean(), list(net.parameters()), allow_unused=True, materialize_grads=True)
    expected = finite_differences(lambda: value().mean(), net.parameters())
    torch.testing.assert_close(list(gradient), expected, rtol=1e-4, atol=1e-7)
    assert max(float(g.abs().max()) for g in expected) > 1e-3


def test_input_gradient_and_its_gradient_equal_finite_differences() -> None:
    net = normed()
    penalty = InputGradient(0.5)(net, BATCH, VIEWS, epoch=0)

    def value() -> Tensor:  # d CE / d logits = p - one-hot
        to_logits = probabilities(net, BATCH.x) - nn.functional.one_hot(Y, 3)
        return 0.5 * torch.einsum("bk,bkd->bd", to_logits, slopes(net, BATCH.x)).square().sum(1)

    torch.testing.assert_close(penalty, value(), rtol=1e-6, atol=1e-9)
    gradient = torch.autograd.grad(penalty.mean(), list(net.parameters()))
    expected = finite_differences(lambda: value().mean(), net.parameters())
    torch.testing.assert_close(list(gradient), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("make", [EffectiveWeightNorm, InputGradient])
def test_on_the_images_asked_for(make: Any) -> None:
    on = {kind: make(1.0, images=kind)(normed(), BATCH, VIEWS, 0) for kind in ("clean", "adversarial")}
    swapped = make(1.0, images="clean")(normed(), Batch(VIEWS.adv, Y), VIEWS, 0)
    torch.testing.assert_close(on["adversarial"], swapped, rtol=0, atol=0)
    assert not torch.allclose(on["clean"], on["adversarial"])


def test_the_weight_falls_at_the_milestones() -> None:
    regularizer = EffectiveWeightNorm(2.0, milestones=[3, 5])
    first, *others = (regularizer(normed(), BATCH, VIEWS, epoch).sum() for epoch in (2, 3, 4, 5))
    torch.testing.assert_close(torch.stack(others) / first, torch.tensor([0.1, 0.1, 0.01], dtype=torch.float64))


def test_nothing_of_the_net_changes() -> None:
    net = normed()
    net[0].eval()  # part of it frozen, as in fine-tuning
    net[4].weight.requires_grad_(False)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    EffectiveWeightNorm()(net, BATCH, VIEWS, 0).mean().backward()
    with pytest.raises(RuntimeError):
        InputGradient()(net, Batch(X, Y), VIEWS, 0)  # single-precision images, double-precision weights
    assert [m.training for m in net.modules()] == [True, False, True, True, True, True]
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert net[4].weight.grad is None


@pytest.mark.parametrize("regularizer", [EffectiveWeightNorm(), InputGradient()], ids=["emr", "input_gradient"])
def test_mixed_precision_computes_it_in_single(regularizer: Regularizer) -> None:
    net = norm_net()
    with torch.autocast("cpu", torch.bfloat16):
        assert net(X).dtype == torch.bfloat16  # and the cache holds the weights in half precision
        mixed = regularizer(net, Batch(X, Y), Views(ADV), 0)
    torch.testing.assert_close(mixed, regularizer(net, Batch(X, Y), Views(ADV), 0), rtol=0, atol=0)


def parts(net: nn.Module, **settings: Any) -> tuple[list[Tensor], Tensor]:
    """Weights after two steps of AT-EMR, and the logged penalty."""
    defense = EMR(
        net,
        weight=0.5,
        temperature=1.0,
        attack=PGD(Threat(eps=0.1), steps=2, start="none"),
        optimizer=lambda params: torch.optim.SGD(params, lr=0.1),
        compile=settings.pop("compile", False),
    )
    trainer = quiet_trainer(max_epochs=1, **settings)
    trainer.fit(defense, loader(8))
    return [w.detach().clone() for w in net.state_dict().values()], trainer.callback_metrics["train/emr"]


@pytest.mark.slow
# the compiler's own use of torch: https://github.com/pytorch/pytorch/blob/main/torch/_inductor
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*TF32:UserWarning")
def test_training_a_compiled_net_is_the_same() -> None:
    # in a process of its own: the compiler starts threads of autograd, after which no other test could fork
    (compiled,) = run_ddp(lambda rank: parts(norm_net(), compile=True), ranks=1, timeout=300)
    torch.testing.assert_close(compiled, parts(norm_net()), rtol=1e-4, atol=1e-5)


def test_training_in_mixed_precision_is_nearly_the_same() -> None:
    (single, penalty), (mixed, penalty_mixed) = parts(norm_net()), parts(norm_net(), precision="bf16-mixed")
    torch.testing.assert_close(penalty_mixed, penalty, rtol=0.02, atol=0)
    torch.testing.assert_close(mixed, single, rtol=0, atol=0.02)


def test_the_authors_reduction_is_one_over_the_global_batch_on_any_number_of_ranks() -> None:
    def penalty(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return EffectiveWeightNorm(3.0, reduction="authors")(net, Batch(x, y), Views(x), 0).detach()

    def on(rank: int) -> Tensor:
        with process_group():
            return penalty(normed(), BATCH.x[rank::2], Y[rank::2])

    whole = penalty(normed(), BATCH.x, Y)
    first, second = run_ddp(on)
    torch.testing.assert_close(torch.stack([first, second], dim=1).flatten(), whole)
    # the authors' own expression: the squared gradient of the batch's mean, summed over batch and pixels
    net, x = normed().eval(), BATCH.x.clone().requires_grad_()
    logits = net(x)
    (gradient,) = torch.autograd.grad((logits.softmax(1).detach() * logits).sum(1).mean(), x)
    torch.testing.assert_close(whole.mean(), 3.0 * gradient.square().sum())


def test_synchronised_batch_norms_need_no_other_rank_for_it() -> None:
    def on(rank: int) -> Tensor:
        with process_group():
            net = nn.SyncBatchNorm.convert_sync_batchnorm(normed())
            return EffectiveWeightNorm()(net, BATCH, VIEWS, 0).detach() if rank == 0 else torch.zeros(0)

    expected = EffectiveWeightNorm()(normed(), BATCH, VIEWS, 0).detach()
    torch.testing.assert_close(run_ddp(on)[0], expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EffectiveWeightNorm(-1.0), "weight must be >= 0 and temperature > 0, got -1.0 and 1.0"),
        (lambda: EffectiveWeightNorm(temperature=0.0), "temperature > 0, got 0.0234375 and 0.0"),
        (lambda: EffectiveWeightNorm(milestones=[5, 3]), r"Milestones must increase, got \[5, 3\]"),
        (lambda: InputGradient(-1.0), "weight must be >= 0, got -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], Regularizer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
