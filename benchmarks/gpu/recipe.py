"""How long an epoch of configs/cifar10/at.yaml takes: the command line's fit, with loading, hooks and logging."""

import tempfile
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.common.recipes import fitted
from benchmarks.gpu.clock import StepClock, peak_mib
from benchmarks.gpu.lines import Setup
from benchmarks.gpu.part import Cases

CONFIGS = Path(__file__).parents[2] / "configs"
SAMPLES, SKIPPED = 49_000, 10
"""Images of CIFAR-10 that the recipe trains on, and the first steps, which are not timed."""

CHANGES: dict[str, Mapping[str, Any]] = {
    "as it is": {},
    "bf16-mixed, channels_last, on_device": {
        "trainer": {"precision": "bf16-mixed"},
        "model": {"channels_last": True},
        "data": {"on_device": True},
    },
    "bf16-mixed, channels_last, on_device, compiled": {
        "trainer": {"precision": "bf16-mixed"},
        "model": {"channels_last": True, "compile": True},
        "data": {"on_device": True},
    },
}


def cases(setup: Setup, done: Collection[str], until: float) -> Cases:
    """As it is, and in the settings recommended for a GPU; the toy leaves out what compiles."""
    for name in list(CHANGES)[: -1 if setup.toy else None]:
        yield f"cifar10/at; {name}", partial(measure, setup, CHANGES[name])


def changed(config: dict[str, Any], changes: Mapping[str, Any], device: str) -> dict[str, Any]:
    """The recipe with other settings; a fit of it leaves and shows nothing."""
    config["trainer"].update(accelerator=device, devices=1, logger=False, enable_progress_bar=False)
    config["trainer"].update(enable_model_summary=False, **changes.get("trainer", {}))
    config["model"]["init_args"].update(changes.get("model", {}))
    config["data"]["init_args"].update(changes.get("data", {}))
    config["evaluation"]["figure_samples"] = 0
    config["checkpoint"] = {"monitor": None, "save_top_k": 0}
    return config


def measure(setup: Setup, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The median step of the first ones, times the steps of an epoch; on random images in the form of CIFAR-10's."""
    steps, skipped = (4, 1) if setup.toy else (110, SKIPPED)
    config = changed(yaml.safe_load((CONFIGS / "cifar10" / "at.yaml").read_text()), changes, setup.device)
    config["trainer"].update(max_epochs=1, limit_train_batches=steps, limit_val_batches=0)
    batch = config["data"]["init_args"]["batch_size"] = 4 if setup.toy else config["data"]["init_args"]["batch_size"]
    count = 2 * steps * batch + 1000 if setup.toy else SAMPLES + 1000
    pictures = {"class_path": "benchmarks.common.pictures.Pictures"}
    config["data"] = {**pictures, "init_args": {**config["data"]["init_args"], "count": count, "val_size": 1000}}
    if setup.toy:
        config["model"]["init_args"]["net"]["init_args"]["width"] = 4
    if setup.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    clock = StepClock(setup.device)
    with tempfile.TemporaryDirectory() as folder:
        fitted(config, 0, folder, [clock])
    step = clock.seconds(skipped)
    return {
        "batch": batch,
        "steps timed": len(clock.ends) - skipped - 1,
        "ms a step": 1000 * step,
        "images/s": batch / step,
        "seconds an epoch": step * (SAMPLES // batch),
        "MiB": peak_mib() if setup.device == "cuda" else "",
    }
