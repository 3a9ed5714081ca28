"""What every attack shares: the doorway through which it touches a net, its random start and its progress."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor

from lightning_robust.losses import cross_entropy, dlr, margin
from lightning_robust.runtime.gradients import detached
from lightning_robust.runtime.modes import AttackBN, attack_mode
from lightning_robust.runtime.precision import full_precision
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from lightning_robust.types import Net, Objective, Radius

Loss: TypeAlias = Literal["ce", "margin", "dlr"]
LOSSES: dict[str, Objective] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}

FORWARD_ROOM = 4
"""How many times as many images fit where no gradient is taken, since no layer's output has to be kept."""


class Attack(ABC):
    """Finds, within a threat model, examples on which a net errs.

    Training and evaluation use the same attacks. The configuration holds the budget (threat, steps, step size); the
    caller passes what is attacked: the net, the images, the target and the objective.

    Args:
        threat: the perturbations allowed.
    """

    gradients: bool = True
    """Whether it takes gradients."""

    def __init__(self, threat: Threat | None = None) -> None:
        self.threat = threat or Threat()

    def fitting(self, batch_size: int) -> int:
        """How many images it may take at a time where `batch_size` fit with their gradients."""
        return batch_size * (1 if self.gradients else FORWARD_ROOM)

    @abstractmethod
    def __call__(
        self,
        net: Net,
        x: Tensor,
        target: Tensor,
        *,
        objective: Objective | None = None,
        eps: Radius | None = None,
        step_size: Radius | None = None,
        start: Tensor | None = None,
        bn: AttackBN = "eval",
        rng: SampleRNG | None = None,
    ) -> Tensor:
        """Craft examples.

        Args:
            net: images to logits; its modes, flags and gradients are left as they were.
            x: clean images [b c h w] in the threat's box.
            target: what the objective compares logits with: labels [b], or reference logits [b k].
            objective: per-sample value of (logits, target) that the attack drives; by default its own.
            eps: radius instead of the threat's, one or per sample [b].
            step_size: step instead of the attack's own, one or per sample [b].
            start: the point to start from, taken as it is, instead of a random one.
            bn: how the net's batch norms (and dropout) run meanwhile.
            draws: source of random numbers; by default seeded once by torch's global generator.

        Returns:
            Examples [b c h w], detached.
        """

    @property
    def stages(self) -> dict[str, "Attack"]:
        """The attacks that this one tries in turn on the samples still standing; empty for a single attack."""
        return {}


@dataclass
class Rows:
    """Base of an attack's state: tensors (and streams) with one row for each sample still under attack."""

    def __getitem__(self: "R", which: Tensor) -> "R":
        """Of some of the samples (a mask or indices)."""
        return replace(self, **{field.name: _part(getattr(self, field.name), which) for field in fields(self)})


R = TypeVar("R", bound=Rows)
T = TypeVar("T")


def _part(value: Any, which: Tensor) -> Any:
    return value[which] if isinstance(value, (Tensor, SampleRNG)) else value


@torch.no_grad()
def misclassified(net: Net, x_adv: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    """Which samples [b] the net errs on, given its logits; under autocast only those on which it errs in fp32 too.

    So a search in half precision claims no success that is not one.
    """
    wrong = logits.argmax(1) != y
    if torch.is_autocast_enabled(x_adv.device.type) and wrong.any():
        with full_precision(x_adv):
            wrong[wrong.clone()] = net(x_adv[wrong]).argmax(1) != y[wrong]
    return wrong


@contextmanager
def craft(
    net: Net, x: Tensor, target: Tensor, bn: AttackBN, rng: SampleRNG | None
) -> Iterator[tuple[Tensor, Tensor, SampleRNG]]:
    """The doorway: inside, input gradients work and the net is in mode `bn`; outside, nothing has changed."""
    with attack_mode(net, bn):
        yield detached(x), detached(target), rng or SampleRNG.from_global_seed(x)


def random_start(x: Tensor, threat: Threat, kind: str, eps: Radius | None, rng: SampleRNG) -> Tensor:
    """Where an attack begins: "uniform" in the ball, "normal" (0.001 N(0, 1), as TRADES), or "none" (at x)."""
    if kind == "uniform":
        return threat.random(x, rng, eps)
    if kind == "normal":
        return threat.project(x + 0.001 * rng.normal(x), x, eps)
    return x.clone()
