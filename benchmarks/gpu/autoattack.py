"""Seconds of AutoAttack's standard version on a robust net."""

import functools
import time
from collections.abc import Callable, Collection
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.common.cases import RADII, dataset
from benchmarks.common.training import bare_step
from benchmarks.gpu.clock import peak_mib
from benchmarks.gpu.lines import Setup
from benchmarks.gpu.part import Cases
from benchmarks.gpu.precision import tf32
from benchmarks.gpu.throughput import FULL
from lightning_robust import evaluate
from lightning_robust.attacks import PGD
from lightning_robust.defenses import AT
from lightning_robust.models import SmallConvNet
from lightning_robust.threat import Threat
from lightning_robust.types import Batch

TRAINED_AT, BATCH = 0.04, 128
SEARCHES: dict[str, tuple[Literal["fp32", "bf16"], bool]] = {
    "search in bf16": ("bf16", True),
    "TF32": ("fp32", True),
    "fp32": ("fp32", False),
}


def cases(setup: Setup, done: Collection[str], until: float) -> Cases:
    """Digits in colours, 3 x 32 x 32: those that the net does not learn from are attacked."""
    attacked, steps = (8, 60) if setup.toy else (1000, 150)
    x, y = (torch.cat(parts) for parts in zip(dataset("colours AT", True), dataset("colours AT", False), strict=True))

    @functools.cache
    def net() -> nn.Module:
        return trained(setup, x[:-attacked].to(setup.device), y[:-attacked].to(setup.device), steps)

    for name, (precision, allowed) in SEARCHES.items():
        what = functools.partial(measure, setup, x[-attacked:], y[-attacked:], precision, allowed)
        yield f"{attacked} images; {name}", functools.partial(of_net, what, net)


def of_net(what: Callable[[nn.Module], dict[str, Any]], net: Callable[[], nn.Module]) -> dict[str, Any]:
    """What is measured of a net that is made when it is needed."""
    return what(net())


def trained(setup: Setup, x: Tensor, y: Tensor, steps: int) -> nn.Module:
    """ResNet-18 after some adversarial training, so that some of its images withstand and others do not."""
    torch.manual_seed(0)
    net = (SmallConvNet(10, 3, width=4) if setup.toy else FULL["ResNet-18"].build()).to(setup.device)
    rate = torch.optim.lr_scheduler.OneCycleLR
    schedules: list[Any] = []

    def optimizer(params: Any) -> torch.optim.Optimizer:
        found = torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
        schedules.append(rate(found, 0.1, total_steps=steps + 1))
        return found

    defense = AT(net, attack=PGD(Threat("linf", TRAINED_AT), steps=2), optimizer=optimizer).train()
    some = torch.empty(BATCH, dtype=torch.int64, device=setup.device)
    batch = Batch(x[:BATCH].clone(), y[:BATCH].clone(), some)
    step = bare_step(defense, batch)
    with tf32(True):
        for _ in range(steps):
            some.random_(len(x))
            batch.x.copy_(x[some])
            batch.y.copy_(y[some])
            step()
            schedules[0].step()
    return net.eval()


def measure(
    setup: Setup, x: Tensor, y: Tensor, precision: Literal["fp32", "bf16"], allowed: bool, net: nn.Module
) -> dict[str, Any]:
    """Seconds and accuracies; images come from the host, as from a loader."""
    cuda = setup.device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start = time.perf_counter()
    with tf32(allowed):
        report = evaluate(
            net, (x, y), f"linf {RADII['colours AT']['linf']}", "autoattack",
            batch_size=500, precision=precision, check_samples=0, accelerator=setup.device,
        )  # fmt: skip
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    (evaluation,) = report.evaluations.values()
    stages = evaluation.report["attacks"]["autoattack"]["stages"]
    return {
        "seconds": seconds,
        "images/s": len(x) / seconds,
        "clean": report.summary["clean"]["accuracy"],
        "robust": report.accuracy(),
        **{stage["name"].split("/")[-1]: stage["seconds"] for stage in stages},
        "MiB": peak_mib() if cuda else "",
    }
