"""Nets that return more than logits are trained as the plain net is, and what is no logits is refused in a sentence."""

import copy
from collections import namedtuple
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn

from lightning_robust.attacks import MSD, PGD, FriendlyPGD, OneOf
from lightning_robust.attacks.functional import fab, pgd, squeeze
from lightning_robust.callbacks import EffectiveMargins, RobustEvaluation
from lightning_robust.defenses import (
    ALP,
    ARD,
    AT,
    AVG,
    AWP,
    CFA,
    CFAAT,
    EAT,
    EMR,
    GAIRAT,
    HAT,
    IAAT,
    IAD,
    IAT,
    IKL,
    LBGAT,
    MAIL,
    MART,
    MMA,
    MMC,
    RSLAD,
    SCORE,
    SCOREAT,
    ST,
    TRADES,
    AdaAD,
    FreeAT,
    Standard,
)
from lightning_robust.metrics.functional import effective_margin, effective_weight_norm
from lightning_robust.parts import GradAlign, LocalLinearity, LogWeightNorms
from lightning_robust.parts.regularizers import InputGradient
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.threat import Threat
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, centred, norm_net

WithHeads = namedtuple("WithHeads", ["logits", "aux_logits"])


class Returns(nn.Module):
    """A net whose output is wrapped, as it may be in training mode alone."""

    def __init__(self, wrap: Callable[[Tensor], Any], in_training_alone: bool = False) -> None:
        super().__init__()
        self.net, self.wrap, self.alone = norm_net(), wrap, in_training_alone

    def forward(self, x: Tensor) -> Any:
        return self.net(x) if self.alone and not self.training else self.wrap(self.net(x))


class ModelOutput(dict):  # as Hugging Face's: a mapping whose keys are attributes, too
    def __getattr__(self, name: str) -> Any:
        return self[name]


OUTPUTS: dict[str, Callable[[], nn.Module]] = {
    "dict": lambda: Returns(lambda z: {"features": z.exp(), "logits": z}),
    "tuple": lambda: Returns(lambda z: (z, z.exp())),
    "list": lambda: Returns(lambda z: [z, z.exp()]),
    "object": lambda: Returns(lambda z: ModelOutput(loss=None, logits=z)),
    "heads in training mode": lambda: Returns(lambda z: WithHeads(z, z.exp()), in_training_alone=True),
}
NORMS = {"linf": PGD(Threat(eps=0.1), steps=2), "l2": PGD(Threat("l2", 0.5), steps=2)}
TAUGHT: dict[str, Callable[..., Any]] = {
    "AT with FriendlyPGD": lambda net, **settings: AT(
        net, **{**settings, "attack": FriendlyPGD(Threat(eps=0.1), tau=1)}
    ),
    "AVG": lambda net, **settings: AVG(net, **{**settings, "attack": OneOf(NORMS)}),
    "EAT": lambda net, **settings: EAT(net, **{**settings, "attack": OneOf(NORMS)}),
    "AT with MSD": lambda net, **settings: AT(net, **{**settings, "attack": MSD(NORMS)}),
    "HAT": lambda net, **settings: HAT(net, OUTPUTS["tuple"](), **settings),
    "RSLAD": lambda net, **settings: RSLAD(net, OUTPUTS["tuple"](), **settings),
    "ARD": lambda net, **settings: ARD(net, OUTPUTS["tuple"](), alpha=0.5, **settings),
    "IAD": lambda net, **settings: IAD(net, OUTPUTS["tuple"](), begin=0, **settings),
    "AdaAD": lambda net, **settings: AdaAD(net, OUTPUTS["tuple"](), alpha=0.5, **settings),
    "LBGAT": lambda net, **settings: LBGAT(net, OUTPUTS["tuple"](), **settings),
}
METHODS: dict[str, Callable[..., Any]] = {
    **TAUGHT,
    "CFA": CFA,
    "CFAAT": CFAAT,
    "IKL": lambda net, **settings: IKL(net, gamma=0.5, ascend="loss", **settings),
    "MMC": lambda net, **settings: MMC(centred(net), **settings),
    "MMA": lambda net, **settings: MMA(net, hinge=0.3, min_radius=0.1, **settings),
    **{
        method.__name__: method
        for method in (Standard, AT, TRADES, MART, ST, AWP, EMR, FreeAT, ALP, IAT, SCORE, SCOREAT)
    },
    "MAIL": lambda net, **settings: MAIL(net, start_epoch=0, **settings),
    "GAIRAT": lambda net, **settings: GAIRAT(net, start_epoch=0, **settings),
    "IAAT": lambda net, **settings: IAAT(net, warmup=0, gamma=0.05, **settings),
    "AT with other penalties": lambda net, **settings: AT(
        net, regularizers=[GradAlign(bn="train"), LocalLinearity(), LogWeightNorms()], **settings
    ),
    "AT with InputGradient": lambda net, **settings: AT(net, regularizers=[InputGradient()], **settings),
}


def trained(method: str, net: nn.Module) -> dict[str, Tensor]:
    start = "normal" if method in ("ST", "TRADES", "SCORE", "HAT", "IKL", "CFA", *TAUGHT) else "none"
    attack = PGD(Threat(eps=0.1), steps=2, start=start, step_size=0.05)
    defense = METHODS[method](net, attack=attack, optimizer=lambda params: torch.optim.SGD(params, lr=0.1))
    quiet_trainer(max_epochs=1, num_sanity_val_steps=0, limit_val_batches=1).fit(defense, Few(n=8, val_size=4))
    return {name.removeprefix("net."): value for name, value in net.state_dict().items()}


@pytest.mark.parametrize("method", METHODS)
def test_a_net_that_returns_more_is_trained_as_the_plain_one(method: str) -> None:
    """To the bit, batch-norm statistics included."""
    plain = trained(method, norm_net())
    assert not torch.equal(plain["4.weight"], norm_net()[4].weight)
    for make in OUTPUTS.values():
        wrapped = trained(method, make())
        assert all(torch.equal(wrapped[name], value) for name, value in plain.items())


class Foreign(LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        pass


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("module", [AT, Foreign])
@pytest.mark.slow
def test_it_is_evaluated_as_the_plain_one(output: str, module: Any) -> None:
    """With the checks of the evaluation, for one kind."""

    def measured(net: nn.Module) -> dict[str, float]:
        pgd_2 = {"pgd": PGD(Threat(eps=0.1), steps=2)}
        evaluation = RobustEvaluation(pgd_2, figure_samples=0, check_samples=2 if output == "dict" else 0)
        trainer = quiet_trainer(callbacks=[evaluation, EffectiveMargins()], default_root_dir=tmp)
        return trainer.test(module(net), Few(), verbose=False)[0]

    with TemporaryDirectory() as tmp:
        assert measured(OUTPUTS[output]()) == measured(norm_net())


@pytest.mark.parametrize("output", OUTPUTS)
def test_functions_find_the_logits(output: str) -> None:
    net, plain = OUTPUTS[output](), norm_net().eval()
    x, y = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
    assert torch.equal(effective_margin(net, x, y), effective_margin(plain, x, y))
    assert torch.equal(effective_weight_norm(net, x), effective_weight_norm(plain, x))
    assert torch.equal(fab(net, x, y, steps=3), fab(plain, x, y, steps=3))
    settings: Any = {"steps": 2, "step_size": 0.1, "bn": "eval", "starts": (x, x.flip(0))}
    ours, theirs = (torch.stack(squeeze(some, x, y, Threat(), **settings)) for some in (net, plain))
    assert torch.equal(ours, theirs)
    assert torch.equal(logits_no_grad(net, x), plain(x))


REFUSED: dict[str, tuple[Callable[[Tensor], Any], type[Exception], str]] = {
    "several rows an image": (lambda z: z.repeat(3, 1), ValueError, r"shape \(12, 3\), 3 rows for each image: wrap it"),
    "members of an ensemble": (lambda z: torch.stack([z, z]), ValueError, r"shape \(2, 4, 3\): wrap it .* mean"),
    "parts of an image": (lambda z: torch.stack([z, z], 1), ValueError, r"shape \(4, 2, 3\): wrap it"),
    "one column": (
        lambda z: z[:, :1],
        ValueError,
        r"shape \(4, 1\), as for two classes behind a sigmoid: let it return",
    ),
    "one value": (lambda z: z[:, 0], ValueError, r"shape \(4,\), as for two classes behind a sigmoid"),
    "maps": (lambda z: z[..., None, None], ValueError, r"\[b k\] for 4 images, got shape \(4, 3, 1, 1\)\.$"),
    "classes": (lambda z: z.argsort(1), TypeError, r"floating-point logits \[b k\], .* got torch\.int64"),
    "other names": (lambda z: {"scores": z}, TypeError, r"dict with the keys \['scores'\]: wrap it"),
    "numbers": (lambda z: z.detach().numpy(), TypeError, "it returned a ndarray: wrap it"),
}


@pytest.mark.parametrize("output", REFUSED)
def test_what_is_no_logits_is_refused_by_functions_and_in_every_stage(output: str) -> None:
    wrap, error, message = REFUSED[output]
    x, y = torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(error, match=message):
        pgd(Returns(wrap), x, y)
    for stage in ("fit", "test"):
        with pytest.raises(error, match=message):
            getattr(quiet_trainer(max_epochs=1, num_sanity_val_steps=0), stage)(AT(Returns(wrap)), Few())


def test_the_advice_for_two_classes_is_right() -> None:
    """Its softmax is the sigmoid, so predictions and probabilities stay."""
    z = torch.linspace(-4, 4, 9)
    logits = torch.stack([torch.zeros_like(z), z], 1)
    torch.testing.assert_close(logits.softmax(1)[:, 1], z.sigmoid())
    assert torch.equal(logits.argmax(1), (z > 0).long())


def test_torchvisions_auxiliary_heads_are_left_out() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng():
        net = torchvision.models.googlenet(num_classes=3, init_weights=False, aux_logits=True).train()
    before = copy.deepcopy(net.state_dict())
    x, y = torch.rand(2, 3, 64, 64), torch.tensor([0, 1])
    pgd(net, x, y, steps=1)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
