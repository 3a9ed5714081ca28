"""What must hold before any number means something: every recipe trains, in every setting, with the CPU's verdicts."""

import copy
import math
import tempfile
from collections.abc import Callable, Collection
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.cases import RADII, NetName, dataset, trained
from benchmarks.common.processes import workers
from benchmarks.common.recipes import CONFIGS, adapted, fitted, hasten, untaught, unvalidated
from benchmarks.common.training import Fit, defended
from benchmarks.common.workloads import Workload
from benchmarks.gpu.lines import Setup
from benchmarks.gpu.part import Cases, fresh
from benchmarks.gpu.precision import tf32
from benchmarks.gpu.waiting import METHODS, captured, unwaited
from benchmarks.settings import CLOSE, DEFAULT, OTHER, SETTINGS
from lightning_robust.attacks import AutoAttack
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat

NET: NetName = "digits AT"
SAMPLES, TOY_SAMPLES = 64, 8
TOY_RECIPES = 8
"""The toy trains one recipe in so many."""
TF32 = "TF32"
COMPILED = ("bf16-mixed + channels_last + compile", "compile")
LEFT_OUT = (*OTHER, DEFAULT, *COMPILED, "compile + channels_last")
"""What computes something else, and what is another's repetition, or comes last because it takes longest."""
TYPES = {"fp32": (torch.float32, 1), "fp64": (torch.float64, 0)}
"""And how many verdicts may differ: in fp32 rounding may decide on a sample."""


def cases(setup: Setup, done: Collection[str], until: float) -> Cases:
    """The CPU's verdicts are computed beside the recipes, in a process of their own."""
    n = TOY_SAMPLES if setup.toy else SAMPLES
    names = {f"AutoAttack's verdicts, {kind}": kind for kind in TYPES}
    with tempfile.TemporaryDirectory() as scratch, workers(1, scratch) as pool:
        folder = Path(scratch)
        on_cpu = {
            kind: pool.submit(verdicts, kind, n, folder, "cpu") for name, kind in names.items() if fresh(done, name)
        }
        for file in sorted(CONFIGS.glob("*.yaml"))[:: TOY_RECIPES if setup.toy else 1]:
            yield f"digits/{file.stem}", partial(two_steps, file.stem, setup.device)
        for method in METHODS:
            yield f"no waiting: {method}", partial(unwaited, method, setup.device)
        yield "CUDA graph of an attack", partial(captured, setup.device)
        for setting in (name for name in (*SETTINGS, TF32) if name not in LEFT_OUT):
            yield f"setting: {setting}", partial(first_loss, setting, setup.device)
        for name, kind in names.items():
            yield name, partial(agreement, kind, on_cpu.get(kind), partial(verdicts, kind, n, folder, setup.device))
        for setting in COMPILED[: 1 if setup.toy else None]:  # minutes on two cores
            yield f"setting: {setting}", partial(first_loss, setting, setup.device)
        pool.shutdown(wait=False, cancel_futures=True)


def two_steps(recipe: str, device: str) -> dict[str, Any]:
    """Two steps of a recipe in which all of its parts are at work, after which all must be finite."""
    config = adapted(recipe, 0.15, epochs=1)
    unvalidated(config)
    config["trainer"].update(accelerator=device, limit_train_batches=2)
    untaught(config["model"]["init_args"], {"class_path": "SmallConvNet"})
    hasten(config, 0)
    with tempfile.TemporaryDirectory() as folder:
        cli = fitted(config, 0, folder)
    loss = float(cli.trainer.callback_metrics["train/loss"])
    weights = all(bool(p.isfinite().all()) for p in cli.model.parameters())
    if not (math.isfinite(loss) and weights):
        raise RuntimeError(f"the loss is {loss}, the weights are {'' if weights else 'not '}finite")
    if cli.trainer.global_step < 2:
        raise RuntimeError(f"{cli.trainer.global_step} steps instead of 2")
    return {"loss": loss}


def first_loss(setting: str, device: str) -> dict[str, Any]:
    """The first loss of AT in a setting, from the same weights, images and random numbers as in fp32."""
    torch.manual_seed(0)
    given, batch = Workload("small", 16, device).build()
    losses = {}
    for name in (DEFAULT, setting):
        of_defense, of_trainer = SETTINGS.get(name, ({}, {}))
        with tf32(name == TF32):
            fit = Fit(defended("AT", given, **of_defense), batch, **of_trainer)
            fit()
        losses[name] = fit.loss
    change = abs(losses[setting] / losses[DEFAULT] - 1)
    if not change < CLOSE["bf16" if "bf16" in setting or setting == TF32 else "32-true"]:
        raise RuntimeError(f"the first loss is {losses[setting]:.6g}, in fp32 {losses[DEFAULT]:.6g}")
    return {"loss": losses[setting], "relative to fp32": change}


def verdicts(kind: str, n: int, folder: Path, device: str) -> list[bool]:
    """Which of the first samples withstand AutoAttack's standard version, without TF32."""
    net = copy.deepcopy(trained(NET, folder)).to(device, TYPES[kind][0])
    x, y = (part[:n].to(device) for part in dataset(NET, train=False))
    x = x.to(TYPES[kind][0])
    rng = SampleRNG(0, torch.arange(len(x), device=device))
    with tf32(False):
        x_adv = AutoAttack(Threat("linf", RADII[NET]["linf"]), batch_size=n)(net, x, y, rng=rng)
        withstood: list[bool] = (logits_no_grad(net, x_adv).argmax(1) == y).tolist()
    return withstood


def agreement(kind: str, on_cpu: Future[list[bool]] | None, on_device: Callable[[], list[bool]]) -> dict[str, Any]:
    """How many verdicts differ."""
    cpu = on_cpu.result() if on_cpu else []  # before the device's: its process trains the net
    device = on_device()
    differ = sum(a != b for a, b in zip(cpu, device, strict=True))
    if differ > TYPES[kind][1]:
        raise RuntimeError(f"{differ} of {len(cpu)} verdicts differ from the CPU's")
    return {"samples": len(cpu), "robust": sum(cpu), "differ": differ}
