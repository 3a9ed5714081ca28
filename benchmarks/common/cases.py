"""Trained nets to attack, the radii where attacks differ on them, and test samples."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common.processes import workers
from lightning_robust.attacks import PGD
from lightning_robust.data import Digits
from lightning_robust.defenses import AT, ST, Defense, Standard
from lightning_robust.models import SmallConvNet
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Norm, Threat
from lightning_robust.types import Batch

CLASSES = 10
NetName: TypeAlias = Literal["digits standard", "digits AT", "digits ST", "colours AT"]
RADII: dict[NetName, dict[Norm, float]] = {
    "digits standard": {"linf": 0.09, "l2": 0.45},
    "digits AT": {"linf": 0.15, "l2": 0.65},
    "digits ST": {"linf": 0.15, "l2": 0.65},
    "colours AT": {"linf": 0.02, "l2": 0.7},
}
"""Robust accuracies lie between 20 and 80 %; where a digits net was trained at linf, its own radius."""

TRAINED: dict[str, tuple[int, int, float, int, int]] = {"digits": (1, 16, 0.15, 20, 5), "colours": (3, 32, 0.04, 12, 2)}
"""Channels of the images, width of the net, linf radius, epochs and attack steps of its training."""

DEFENSES: dict[str, Callable[..., Defense]] = {"standard": Standard, "AT": AT, "ST": ST}
BATCH = {"digits": 50, "colours": 32}
"""Images at a time, as a loader gives them: all of a round's samples are attacked, in so many at a time."""


@dataclass(frozen=True)
class Case:
    """A trained net, a threat model and the test samples."""

    name: NetName
    net: nn.Module
    norm: Norm
    eps: float
    x: Tensor
    y: Tensor

    @property
    def threat(self) -> Threat:
        """The perturbations allowed."""
        return Threat(self.norm, self.eps)

    @property
    def batch(self) -> int:
        """Images at a time."""
        return BATCH[self.name.split()[0]]

    def robust(self, x_adv: Tensor, rows: slice) -> Tensor:
        """Which of the samples withstood; examples outside the threat model are an error."""
        x = self.x[rows]
        size = self.threat.distance(x_adv, x)
        if not (bool((size <= self.eps * (1 + 1e-5) + 1e-6).all()) and x_adv.min() >= 0 and x_adv.max() <= 1):
            raise RuntimeError(f"{self.name}: examples leave the {self.norm} ball or the box.")
        return logits_no_grad(self.net, x_adv).argmax(1) == self.y[rows]


def coloured(x: Tensor, seed: int) -> Tensor:
    """Digits [b 1 8 8] as images [b 3 32 32]: each with ink and paper of colours of its own, and a faint texture."""
    rng = SampleRNG(seed, torch.arange(len(x)))
    ink = F.interpolate(x, size=(32, 32), mode="bilinear", align_corners=False)
    low, high = (rng.uniform(x.new_empty(len(x), 3, 1, 1)) for _ in range(2))
    texture = F.interpolate(rng.normal(x.new_empty(len(x), 3, 16, 16)), scale_factor=2.0)
    return (0.3 * low + ink * (0.5 + 0.2 * high) + 0.03 * texture).clamp(0, 1)


def dataset(name: NetName, train: bool) -> tuple[Tensor, Tensor]:
    """Images and labels."""
    x, y = (Digits().train_data(False) if train else Digits().test_data()).tensors
    return (coloured(x, int(train)) if name == "colours AT" else x), y


def trained(name: NetName, folder: Path) -> nn.Module:
    """The net, trained unless the folder has it."""
    data, _ = name.split()
    channels, width = TRAINED[data][:2]
    return kept(name, lambda: SmallConvNet(CLASSES, channels, width), name, folder)


def kept(title: str, build: Callable[[], nn.Module], like: NetName, folder: Path) -> nn.Module:
    """A net trained on the data and in the way of a named one, unless the folder has it under its title."""
    data, kind = like.split()
    _, _, eps, epochs, steps = TRAINED[data]
    torch.manual_seed(0)
    net = build()
    file = folder / f"{title.replace(' ', '_')}.pt"
    if file.exists():
        net.load_state_dict(torch.load(file, weights_only=True))
        return net.eval()
    attack = PGD(Threat("linf", eps), steps=steps, start="normal" if kind == "ST" else "uniform")
    defense = DEFENSES[kind](net, **({} if kind == "standard" else {"attack": attack}))
    x, y = dataset(like, train=True)
    rounds = epochs * (len(x) // 64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=rounds)
    net.train()
    for _ in range(rounds):
        some = torch.randint(len(x), (64,))
        batch = Batch(x[some], y[some], some)
        loss = defense.loss(batch, defense.generate(batch)).total.mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), file)
    return net.eval()


@contextmanager
def nets_and_workers(
    names: Iterable[NetName], folder: Path | None, jobs: int
) -> Iterator[tuple[Path, ProcessPoolExecutor]]:
    """Give the folder that holds the nets, trained where it lacks them, and so many processes to attack them.

    Args:
        names: of the nets.
        folder: where they are kept; None for a temporary one.
        jobs: processes at a time.
    """
    with tempfile.TemporaryDirectory() as scratch, workers(jobs, scratch) as pool:
        names, folder = list(names), folder or Path(scratch)
        list(pool.map(trained, names, [folder] * len(names)))
        yield folder, pool


def percent(part: Tensor) -> float:
    """The share of samples for which it holds."""
    return round(100 * float(part.double().mean()), 2)
