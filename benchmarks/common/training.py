"""Training steps of every defense, with and without Lightning."""

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.common.timing import now
from lightning_robust.attacks import PGD
from lightning_robust.data import Indexed
from lightning_robust.defenses import AT, AWP, EMR, IAAT, MAIL, MART, ST, TRADES, Defense, FreeAT, Standard
from lightning_robust.types import Batch

STEPS = 10
"""Of every attack."""

NORMAL = PGD(start="normal")
DEFENSES: dict[str, tuple[type[Defense], dict[str, Any]]] = {
    "Standard": (Standard, {}),
    "AT": (AT, {}),
    "TRADES": (TRADES, {"attack": NORMAL}),
    "MART": (MART, {"attack": NORMAL}),
    "MAIL": (MAIL, {"attack": NORMAL, "start_epoch": 0}),
    "EMR": (EMR, {}),
    "AWP": (AWP, {}),
    "ST": (ST, {"attack": NORMAL}),
    "IAAT": (IAAT, {"warmup": 0}),
    "IAAT, all probes": (IAAT, {"warmup": 0, "probing": "all", "refine_steps": None}),
    "FreeAT": (FreeAT, {}),
}
"""Every defense, each in the state after its warm-up, and its settings."""


def defended(name: str, net: nn.Module, **settings: Any) -> Defense:
    """The defense of that name on a copy of the net."""
    method, own = DEFENSES[name]
    given: dict[str, Any] = {"attack": PGD(), "optimizer": sgd, **own, **settings}
    return method(copy.deepcopy(net), **{**given, "attack": copy.copy(given["attack"])})


def sgd(params: Any) -> torch.optim.SGD:
    """So small a rate that the net stays what it is, over however many steps."""
    return torch.optim.SGD(params, lr=1e-6, momentum=0.9, weight_decay=5e-4)


def settle(defense: Defense, samples: int, device: Any) -> None:
    """Give IAAT radii half as large as the attack's, the same before every step."""
    if isinstance(defense, IAAT):
        defense.radii.prepare(samples, torch.device(device))
        defense.radii.values.fill_(4 / 255)


def bare_step(
    defense: Defense, batch: Batch, precision: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> Callable[[], None]:
    """A step in a hand-written loop: what the method computes, without Trainer, checks, logging and loading.

    Args:
        defense: the method and its net.
        batch: what it trains on.
        precision: makes the context of all but the last backward pass and the optimizer, such as autocast.
    """
    optimizer: Any = defense.configure_optimizers()

    def run() -> None:
        settle(defense, len(batch.x), batch.x.device)
        perturb, restore = next(iter(defense.weight_perturbations), None), None
        with precision():
            views = defense.generate(batch)
            if perturb is not None:
                restore = perturb(defense.net, lambda: defense.loss(batch, views).total, 0)
            total: Tensor = defense.loss(batch, views).total
            for regularizer in defense.regularizers:
                total = total + regularizer(defense.net, batch, views, 0)
        optimizer.zero_grad()
        torch.autograd.backward(total.mean())
        if restore is not None:
            restore()
        defense.on_after_backward()
        optimizer.step()

    def replayed() -> None:
        for _ in range(defense.replays if isinstance(defense, FreeAT) else 1):
            run()

    return replayed


class _Clock(Callback):
    """When each training step ended, and its loss; after the first one the defense works at its full strength."""

    def __init__(self, strong: Callable[[], None]) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []
        self.strong = strong

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))
        self.strong()
        self.ends.append(now())


class Fit:
    """An arm: `Trainer.fit` on two batches, timed from the end of the first step to the end of the second.

    So loading, transfer, hooks and logging are in, and what happens once per fit (or per process: compilation) is out.
    From the second fit on, the first step runs one attack step only, to spend less on what is not counted.
    """

    def __init__(
        self,
        defense: Defense,
        batch: Batch,
        precision: Any = "32-true",
        callbacks: Callable[[], list[Callback]] = list,
    ) -> None:
        b = len(batch.x)
        self.defense, self.precision, self.callbacks = defense, precision, callbacks
        self.accelerator = batch.x.device.type
        twice = TensorDataset(batch.x.cpu().repeat(2, 1, 1, 1), batch.y.cpu().repeat(2))
        self.loader = DataLoader(Indexed(twice), b)
        self.loss = math.nan

    def __call__(self) -> float:
        clock = _Clock(lambda: self._strength(STEPS))
        settle(self.defense, len(self.loader.dataset), "cpu")  # type: ignore[arg-type]
        trainer = Trainer(
            max_epochs=1,
            accelerator=self.accelerator,
            devices=1,
            precision=self.precision,
            callbacks=[*self.callbacks(), clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(self.defense, self.loader)
        self._strength(1)  # until the next fit's first step is over
        if math.isnan(self.loss):
            self.loss = clock.losses[0]
        return clock.ends[1] - clock.ends[0]

    def _strength(self, steps: int) -> None:
        attack: Any = self.defense.attack
        attack.steps = steps
