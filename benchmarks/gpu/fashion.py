"""Adversarial training of PreActResNet-18 on Fashion-MNIST, for as many epochs as fit into the time that is left."""

import sys
import tempfile
import time
from collections.abc import Collection
from functools import partial
from typing import Any

import torch
import yaml
from lightning import Callback

from benchmarks.common.recipes import fitted
from benchmarks.gpu.clock import StepClock
from benchmarks.gpu.lines import InapplicableError, OutOfTimeError, Setup
from benchmarks.gpu.part import Cases
from benchmarks.gpu.recipe import CHANGES, CONFIGS, changed
from lightning_robust.data import FashionMNIST

CASE = "PreActResNet-18, linf 0.1"
BATCH, TESTED, EPOCHS = 512, 2000, 30
TRIED, SKIPPED = 24, 6
"""Steps of a first fit, by which the number of epochs is chosen, and those of them that are not timed."""
FOR_TRAINING = 0.7
"""Of the time that is left; the rest is for starting and for the test."""


class Epochs(Callback):
    """Keeps a line of each epoch as soon as it is over."""

    def __init__(self, setup: Setup, epochs: int) -> None:
        self.where, self.epochs, self.began = setup, epochs, 0.0

    def on_train_epoch_start(self, *args: Any) -> None:
        self.began = time.perf_counter()

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        if self.where.device == "cuda":
            torch.cuda.synchronize()
        seconds = {"seconds": time.perf_counter() - self.began}
        self.where.add("fashion", f"epoch {trainer.current_epoch + 1} of {self.epochs}", "ok", values=seconds)


def cases(setup: Setup, done: Collection[str], until: float) -> Cases:
    """One case."""
    yield CASE, partial(measure, setup, until)


def measure(setup: Setup, until: float) -> dict[str, Any]:
    """Train by the recipe of configs/fashion_mnist with another net and batch, and test with its PGD-50."""
    files = [file for split in ("train", "test") for file in FashionMNIST(str(setup.data)).files(split)]
    if not all(file.is_file() for file in files):
        raise InapplicableError("no files of Fashion-MNIST in the folder that --data names")
    with tempfile.TemporaryDirectory() as folder:
        tried, skipped = (4, 1) if setup.toy else (TRIED, SKIPPED)
        clock = StepClock(setup.device)
        cli = fitted(recipe(setup, 1, limit_train_batches=tried), 0, folder, [clock])
        steps = min(len(cli.datamodule.train_dataloader()), 2 if setup.toy else sys.maxsize)
        epoch = clock.seconds(skipped) * steps
        epochs = 1 if setup.toy else min(EPOCHS, int(FOR_TRAINING * (until - time.time()) / epoch))
        if not epochs:
            raise OutOfTimeError
        limit: dict[str, Any] = {"limit_train_batches": steps} if setup.toy else {}
        start = time.perf_counter()
        cli = fitted(recipe(setup, epochs, **limit), 0, folder, [Epochs(setup, epochs)])
        seconds = time.perf_counter() - start
        (tested,) = cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    return {
        "epochs": epochs,
        "seconds": seconds,
        "seconds an epoch": epoch,
        "clean": 100 * tested["test/clean_acc"],
        "PGD-50": 100 * tested["test/pgd50_acc"],
        "tested": cli.trainer.limit_test_batches * BATCH if not setup.toy else 4,
    }


def recipe(setup: Setup, epochs: int, **trainer: Any) -> dict[str, Any]:
    """The settings recommended for a GPU; no validation, as there is no epoch to choose."""
    fast = CHANGES["bf16-mixed, channels_last, on_device"]
    config = changed(yaml.safe_load((CONFIGS / "fashion_mnist" / "at.yaml").read_text()), fast, setup.device)
    batch = 4 if setup.toy else BATCH
    tests = {"limit_val_batches": 0, "limit_test_batches": 1 if setup.toy else TESTED // BATCH}
    config["trainer"].update(max_epochs=epochs, **tests, **trainer)
    net = {"depth": 18, **({"width": 4} if setup.toy else {})}
    config["model"]["init_args"]["net"] = {"class_path": "PreActResNet", "init_args": net}
    config["data"]["init_args"].update(root=str(setup.data), batch_size=batch, val_size=0)
    return config
