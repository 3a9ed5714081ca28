"""A training step never waits for the device: none of it asks for a tensor's values to know what comes next."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_robust import attacks
from lightning_robust.attacks import MSD, PGD, FriendlyPGD, OneOf, WorstOf
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
    Defense,
    FreeAT,
    Standard,
    sample_radii,
)
from lightning_robust.parts import ASAM, SAM, GradAlign, LogWeightNorms
from lightning_robust.parts import RobustWeightPerturbation as RWP
from lightning_robust.parts.regularizers import InputGradient
from lightning_robust.threat import Threat
from lightning_robust.types import Batch
from tests.helpers.few import centred, norm_net

N = 8
ATTACK = PGD(Threat(eps=0.1), steps=2)
NORMS = {"linf": ATTACK, "l2": PGD(Threat("l2", 0.5), steps=2)}  # a projection in l1 waits until it has ended
NEVER: dict[str, tuple[Callable[..., Defense], dict[str, Any]]] = {
    "Standard": (Standard, {}),
    "AT": (AT, {}),
    "AT in l2": (AT, {"attack": PGD(Threat("l2", 0.5), steps=2, momentum=0.5)}),
    "AT, random targets": (AT, {"attack": PGD(Threat(eps=0.1), steps=2, targeted=True, random_targets=3)}),
    "AT, attack in bf16": (AT, {"attack_precision": "bf16"}),
    "AT, batch statistics": (AT, {"attack_bn": "batch"}),
    "AT, input gradient": (AT, {"regularizers": [InputGradient()]}),
    "AT, other penalties": (AT, {"regularizers": [GradAlign(), LogWeightNorms()]}),  # Adam, in LLR, counts on the host
    "AT, RWP": (AT, {"weight_perturbation": RWP()}),
    "AT, SAM and ASAM": (AT, {"weight_perturbation": [SAM(), ASAM()]}),
    "AT, MSD": (AT, {"attack": MSD(NORMS)}),
    "AT, a norm drawn": (AT, {"attack": OneOf(NORMS)}),
    "TRADES, the worst norm": (TRADES, {"attack": WorstOf(NORMS)}),
    "AVG": (AVG, {"attack": WorstOf(NORMS)}),
    "TRADES": (TRADES, {}),
    "MART": (MART, {}),
    "MAIL": (MAIL, {"start_epoch": 0}),
    "EMR": (EMR, {}),
    "AWP": (AWP, {}),
    "ALP": (ALP, {}),
    "GAIRAT": (GAIRAT, {"start_epoch": 0}),
    "SCORE": (SCORE, {"clip": 0.1}),
    "SCOREAT": (SCOREAT, {"clip": 0.1}),
    "IAT": (IAT, {}),
    "FreeAT": (FreeAT, {}),
    "MMC": (
        lambda net, **given: MMC(centred(net), **given),
        {"attack": PGD(Threat(eps=0.1), steps=2, targeted=True, random_targets=3, loss="label_logit")},
    ),
    "CFA": (CFA, {}),
    "CFAAT": (CFAAT, {}),
    "IKL": (IKL, {"gamma": 0.5, "ascend": "loss"}),
    "RSLAD": (RSLAD, {"teacher": norm_net(3)}),
    "ARD": (ARD, {"teacher": norm_net(3)}),
    "HAT": (HAT, {"teacher": norm_net(3)}),
    "IAD": (IAD, {"teacher": norm_net(3), "begin": 0}),
    "AdaAD": (AdaAD, {"teacher": norm_net(3)}),
    "LBGAT": (LBGAT, {"teacher": norm_net(3)}),
    "IAAT, all probes": (IAAT, {"warmup": 0, "probing": "all", "refine_steps": None}),
}
WAITS: dict[str, tuple[type[Defense], dict[str, Any]]] = {
    "EAT": (EAT, {"attack": OneOf(NORMS)}),  # how many samples are robust, for the next batch's draw
    "FAT": (AT, {"attack": FriendlyPGD(Threat(eps=0.1), steps=2)}),  # which samples stop
    "IAAT": (IAAT, {"warmup": 0}),  # which samples a probe leaves out
    "MMA": (MMA, {}),  # which samples have a boundary to be searched
    "ST": (ST, {}),  # whether any clean image has to pass the net again
    "AT, restarts": (AT, {"attack": PGD(Threat(eps=0.1), steps=2, restarts=2)}),  # which samples stop
}


class Waiting(TorchDispatchMode):
    """Notes the operations for which a device's queue would have to run dry."""

    OPERATIONS = "_local_scalar_dense nonzero masked_select equal allclose bincount repeat_interleave".split()  # noqa: SIM905
    METHODS = ("tolist", "numpy", "cpu", "__array__")  # which no operation gives away on a CPU

    def __init__(self) -> None:
        super().__init__()
        self.met: list[str] = []

    def __enter__(self) -> Any:
        self.patches = [patch.object(torch.Tensor, name, self.noting(name)) for name in self.METHODS]
        for each in self.patches:
            each.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for each in self.patches:
            each.stop()

    def noting(self, name: str) -> Any:
        method = getattr(torch.Tensor, name)

        def noted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.met.append(name)
            return method(tensor, *args, **kwargs)

        return noted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in self.OPERATIONS or "unique" in name or any(m is not None and m.dtype == torch.bool for m in masks):
            self.met.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def looking_waits() -> Iterator[None]:
    """Inside, attacks take the CPU for a device whose queue they would have to wait for."""
    with ExitStack() as stack:
        for module in (attacks.base, attacks.squeeze, sample_radii):
            stack.enter_context(patch.object(module, "reading_is_free", lambda x: False))
        yield


def waits(method: type[Defense], settings: dict[str, Any]) -> list[str]:
    defense = method(norm_net(), **{"attack": ATTACK, **settings})
    optimizer: Any = defense.configure_optimizers()
    if isinstance(defense, sample_radii.SampleRadii):
        defense.radii.prepare(N, torch.device("cpu"))
        defense._positions_checked = True
    batch = Batch(torch.rand(N, 1, 4, 4), torch.randint(3, (N,)), torch.arange(N))
    defense._receive = lambda stage, given: given  # type: ignore[method-assign]  # looks at the first batch
    for attack in (defense.attack, *defense.attack.parts):
        attack._checked = True  # as an accelerator's attack is after its first call
    defense._checked.add("loss")  # which the first step looks at
    with Waiting() as waiting, looking_waits():
        defense.backward(defense.training_step(batch, 0))
        defense.on_after_backward()
        optimizer.step()
    return waiting.met


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("case", NEVER)
def test_no_step_waits_for_the_device(case: str) -> None:
    assert not waits(*NEVER[case])


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("case", WAITS)
def test_methods_that_decide_by_sample_do(case: str) -> None:
    assert waits(*WAITS[case])


def test_each_way_to_wait_is_seen() -> None:
    x = torch.rand(3)
    y, mask, whole = x.sum(), x > 0.5, torch.arange(3)
    for wait in (
        lambda: y.item(),
        lambda: bool(y > 0),
        lambda: int(y),
        lambda: x[mask],
        lambda: torch.nonzero(x),
        lambda: torch.unique(x),
        lambda: torch.unique_consecutive(x),
        lambda: torch.equal(x, x),
        lambda: torch.allclose(x, x),
        lambda: torch.bincount(whole),
        lambda: torch.repeat_interleave(x, whole),
        lambda: x.tolist(),
        lambda: x.numpy(),
        lambda: x.cpu(),
    ):
        with Waiting() as waiting:
            wait()
        assert len(waiting.met) >= 1
