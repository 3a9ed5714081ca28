"""AutoAttack's standard version here, in torchattacks and as its authors wrote it."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from benchmarks.common.cases import CLASSES, Case
from benchmarks.common.timing import now
from lightning_robust.attacks import AutoAttack
from lightning_robust.runtime.rng import SampleRNG

STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
STEPS, QUERIES, TARGETS = 100, 5000, 9
ROUNDS = {"digits": 3, "colours": 2}

Attack: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Images, labels and their positions in the test set to examples."""


def ours(
    case: Case,
    net: nn.Module,
    seed: int = 0,
    stage: str | None = None,
    bf16: bool = False,
    batch_size: int | None = None,
) -> Attack:
    """The package's; with `bf16`, the search runs in it, on images in the memory format channels_last."""
    whole = AutoAttack(case.threat, batch_size=batch_size or case.batch)
    attack = whole if stage is None else whole.stages[stage]

    def run(x: Tensor, y: Tensor, index: Tensor) -> Tensor:
        if bf16:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            return attack(net, x, y, rng=SampleRNG(seed, index))

    return run


def torchattacks(
    case: Case, net: nn.Module, seed: int = 0, stage: str | None = None, batch_size: int | None = None
) -> Attack:
    """torchattacks', with the authors' numbers of steps instead of its own 10."""
    module = import_module("torchattacks")
    whole = module.AutoAttack(net, norm=case.norm.capitalize(), eps=case.eps, n_classes=CLASSES, seed=seed)
    for attack in whole._autoattack.attacks[:3]:
        attack.steps = STEPS
    chosen = whole if stage is None else whole._autoattack.attacks[STAGES.index(stage)]
    size = batch_size or case.batch
    return lambda x, y, index: torch.cat([chosen(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)])


def authors(case: Case, net: nn.Module, seed: int = 0, stage: str | None = None) -> Attack:
    """The reference."""
    module = import_module("autoattack")
    whole = module.AutoAttack(
        net, norm=case.norm.capitalize(), eps=case.eps, seed=seed, verbose=False, device="cpu", version="standard"
    )
    if stage is not None:
        whole.attacks_to_run = [stage]
    return lambda x, y, index: whole.run_standard_evaluation(x, y, bs=case.batch)


OTHERS: dict[str, Callable[..., Attack]] = {"torchattacks": torchattacks, "authors": authors}
MODULES = {"torchattacks": "torchattacks", "authors": "autoattack"}


def available() -> list[str]:
    """Those of the other libraries that are installed."""
    found = []
    for name, module in MODULES.items():
        try:
            import_module(module)
            found.append(name)
        except ImportError:
            print(f"{name}: left out, as {module!r} cannot be imported.")
    return found


class Metered(nn.Module):
    """A net that adds up the seconds of its own forward and backward passes.

    By the wall clock, since reading the CPU time takes longer than a small net's layer; so a share of seconds that were
    measured by the same clock.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.seconds, self.began = net, 0.0, 0.0

    def forward(self, x: Tensor) -> Tensor:
        """The net's logits."""
        began = time.perf_counter()
        x = _Mark.apply(x, self._ends)
        logits: Tensor = _Mark.apply(self.net(x), self._begins)
        self.seconds += time.perf_counter() - began
        return logits

    def _begins(self) -> None:
        self.began = time.perf_counter()

    def _ends(self) -> None:
        self.seconds += time.perf_counter() - self.began


class _Mark(torch.autograd.Function):
    """The identity, whose backward pass calls a function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: Callable[[], None]) -> Tensor:
        ctx.call = call
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ctx.call()
        return grads[0], None


class Whole:
    """An arm: each call attacks the next part of the samples, after a first call for nothing."""

    def __init__(self, case: Case, attack: Attack, net: Metered | None = None) -> None:
        self.case, self.attack, self.net = case, attack, net
        size = -(-len(case.x) // ROUNDS[case.name.split()[0]])
        self.parts = [slice(0, 0), *(slice(i, i + size) for i in range(0, len(case.x), size))]
        self.robust: list[Tensor] = []
        self.outside: list[float] = []
        self.wall: list[float] = []

    def __call__(self) -> float:
        rows = self.parts[len(self.robust)]
        if not rows.stop:  # runs of seconds need no warming up
            self.robust.append(self.case.y[rows].bool())
            return 0.0
        x, y, before = self.case.x[rows], self.case.y[rows], self.net.seconds if self.net else 0.0
        start, wall = now(), time.perf_counter()
        x_adv = self.attack(x, y, torch.arange(len(x)) + rows.start)
        wall, seconds = time.perf_counter() - wall, now() - start
        self.robust.append(self.case.robust(x_adv, rows))
        self.outside.append(wall - (self.net.seconds - before if self.net else 0.0))
        self.wall.append(wall)
        return seconds

    @property
    def verdicts(self) -> Tensor:
        """Which samples withstood."""
        return torch.cat(self.robust[1:])
