"""Images a second, share of the device's peak and memory of training steps, beside the peers."""

import copy
import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.common.timing import Spread, ratio
from benchmarks.common.training import bare_step, defended
from benchmarks.common.workloads import NETS, with_batch
from benchmarks.gpu.clock import allocated, interleaved, weighed
from benchmarks.gpu.flops import flops_of_passes, flops_of_step, passes_of, share_of_peak
from benchmarks.gpu.lines import Setup
from benchmarks.gpu.part import Cases, reason
from benchmarks.gpu.peers import peers
from benchmarks.gpu.precision import SETTINGS, Setting, tf32
from benchmarks.training_peers import EPS, STEP, Step
from lightning_robust.attacks import PGD
from lightning_robust.attacks.start import Start
from lightning_robust.models import PreActResNet, TimmModel, WideResNet
from lightning_robust.threat import Threat
from lightning_robust.types import Batch

METHODS: dict[str, Start] = {"AT": "uniform", "TRADES": "normal", "ST": "normal", "IAAT": "uniform", "EMR": "uniform"}
"""And how their attacks start."""


class Kind(NamedTuple):
    """Pixels on each side, images a step, and the net."""

    pixels: int
    batch: int
    build: Callable[[], nn.Module]


FULL = {
    "ResNet-18": Kind(32, 128, NETS["resnet18"][2]),
    "WRN-28-10": Kind(32, 128, NETS["wide_resnet28_10"][2]),
    "ResNet-50": Kind(224, 64, NETS["resnet50"][2]),
    "ConvNeXt-T": Kind(224, 64, NETS["convnext_tiny"][2]),
}
_NARROW = {"dims": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
TOY = {
    "ResNet-18": Kind(32, 2, lambda: PreActResNet(18, width=4)),
    "WRN-28-10": Kind(32, 2, lambda: WideResNet(10, 1)),
    "ResNet-50": Kind(64, 2, lambda: PreActResNet(50, width=4)),
    "ConvNeXt-T": Kind(64, 2, lambda: TimmModel("convnext_tiny", 10, stem="conv", options=_NARROW)),
}
"""The same kinds of layers in nets that take no time."""
BUDGET, LEAST, MOST = 1.0, 3, 20
"""Seconds of the timed steps of a case, and how often each is timed."""


def order(toy: bool) -> list[tuple[str, str, str]]:
    """Settings, nets and methods by their worth: fp32 and what is compiled take longest."""
    bf16, middle, fp32, compiled = SETTINGS
    if toy:  # each net, each method, and each setting but the compiled one, which takes minutes on two cores
        # on a CPU torch 2.14 breaks down in EMR's gradient of a gradient in bf16 with channels_last
        pairs = zip(METHODS, itertools.cycle(FULL), strict=False)
        cases = [(fp32 if method == "EMR" else bf16, net, method) for method, net in pairs]
        return cases + [(setting, "ResNet-18", "AT") for setting in (middle, fp32)]
    cases = [(setting, net, method) for setting in (bf16, middle) for net in FULL for method in METHODS]
    cases += [(setting, net, "AT") for setting in (fp32, compiled) for net in FULL]
    return [*cases, *((setting, net, m) for setting in (fp32, compiled) for net in FULL for m in METHODS if m != "AT")]


def cases(setup: Setup, done: Collection[str], until: float) -> Cases:
    """A case is a net, a method and a setting, with all that train so, one after the other in rounds."""
    kinds = TOY if setup.toy else FULL

    @functools.cache
    def built(net: str) -> tuple[nn.Module, Batch]:
        kind = kinds[net]
        return with_batch(kind.build().to(setup.device), kind.batch, kind.pixels)

    @functools.cache
    def flops(net: str) -> Mapping[str, float]:
        try:
            return flops_of_passes(built(net)[0], kinds[net].pixels)
        except Exception as error:  # the seconds are worth having alone
            print(f"The operations of {net} were not counted: {reason(error)}")
            return defaultdict(lambda: math.nan)

    def measured(setting: str, net: str, method: str) -> dict[str, Any]:
        return measure(setup, method, SETTINGS[setting], *built(net), flops(net))

    for setting, net, method in order(setup.toy):
        yield f"{setting}; {net}; {method}", functools.partial(measured, setting, net, method)


def measure(
    setup: Setup, method: str, setting: Setting, given: nn.Module, batch: Batch, flops: Mapping[str, float]
) -> dict[str, Any]:
    """Of us and of each peer: what a step takes, or why it failed."""
    arms: dict[str, Step] = {}
    once: dict[str, float] = {}
    found: dict[str, dict[str, Any]] = {}
    with tf32(setting.tf32):
        contenders = {"ours": functools.partial(ours, method, setting, setup.device)}
        if not setting.of_defense.get("compile"):
            contenders |= {
                name: functools.partial(theirs, peer, setting, setup.device)
                for name, peer in peers(method, setup.authors).items()
            }
        for name, make in contenders.items():
            before = allocated(setup.device)
            try:
                step = make(given, batch)
                step()  # what happens once: kernels are loaded, compiled or chosen
                found[name] = {}
                once[name], found[name]["MiB"] = weighed(step, setup.device, before)
                arms[name] = step
            except Exception as error:
                if name == "ours":
                    raise
                found[name] = {"failed": reason(error)}
        rounds = 2 if setup.toy else max(LEAST, min(MOST, int(BUDGET / sum(once.values()))))
        seconds = interleaved(arms, setup.device, rounds)
        per_image = flops_of_step(passes_of(method, given, batch), flops)
    for name in arms:
        median = Spread.of(seconds[name]).median
        tflops = per_image * len(batch.x) / median / 1e12
        found[name] |= {
            "batch": len(batch.x),
            "pixels": batch.x.shape[-1],
            "ms": 1000 * median,
            "images/s": len(batch.x) / median,
            "TFLOP/s": tflops,
            "share of peak": share_of_peak(tflops, setup.name, setting.precision),
            "over ours": ratio(seconds[name], seconds["ours"]).median,
            "rounds": len(seconds[name]),
        }
    return found


def ours(method: str, setting: Setting, device: str, given: nn.Module, batch: Batch) -> Step:
    """A step of the defense."""
    attack = PGD(Threat(eps=EPS), 10, STEP, start=METHODS[method])
    defense = defended(method, given, attack=attack, **setting.of_defense)
    defense.configure_model()
    return bare_step(defense, batch, setting.autocast(device))


def theirs(peer: Any, setting: Setting, device: str, given: nn.Module, batch: Batch) -> Step:
    """A step of a peer, in the same precision and layout."""
    net = copy.deepcopy(given)
    if setting.of_defense.get("channels_last"):
        net = net.to(memory_format=torch.channels_last)
    step, autocast = peer(net, batch), setting.autocast(device)

    def within() -> None:
        with autocast():
            step()

    return within
