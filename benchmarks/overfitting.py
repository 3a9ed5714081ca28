"""Catastrophic overfitting: where single-step training collapses on real images, and what keeps it from that.

python -m benchmarks.overfitting [--root FOLDER] [--seeds 3] [--jobs 2]
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import auto_cli
from lightning import Callback, LightningModule, Trainer, seed_everything
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.common.combinations import ALONE
from benchmarks.common.fashion import TESTED, tested_images
from benchmarks.common.processes import quiet
from benchmarks.common.runs import read, run_all
from benchmarks.common.tables import RESULTS, Row, required, spread, write
from lightning_robust.attacks import NFGSM, PGD, Attack
from lightning_robust.callbacks import CatastrophicOverfitting
from lightning_robust.data import FashionMNIST
from lightning_robust.defenses import AT
from lightning_robust.models import SmallConvNet
from lightning_robust.parts import GradAlign
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat

EPS, EPOCHS, TRAINED, BATCH = 0.15, 15, 10_000, 128
THREAT = Threat("linf", EPS)
FGSM = "FGSM"
STOPPED = "FGSM, the callback"
ARMS: dict[str, dict[str, Any]] = {
    FGSM: {},
    STOPPED: {"callbacks": [partial(CatastrophicOverfitting, drop=0.15)]},  # accuracies under PGD are about 0.3 here
    "N-FGSM": {"attack": NFGSM(THREAT)},
    "FGSM, GradAlign": {"regularizers": [GradAlign(weight=0.2)]},
}
"""What each adds to training on FGSM's examples, without a random start."""
OVERFITTED = 0.25
"""Accuracy under FGSM less that under PGD-20, above which a net withstands only what it was trained on."""


class Key(NamedTuple):
    """What one fit is measured for."""

    arm: str
    seed: int
    root: str


@dataclass(frozen=True)
class Run:
    """Accuracies on test images: after each epoch under FGSM and PGD-20, separated by spaces, and of the final net."""

    arm: str
    seed: int
    fgsm: str
    pgd: str
    final_clean: float
    final_pgd: float

    @property
    def curves(self) -> tuple[list[float], list[float]]:
        """Both accuracies by epoch."""
        return [float(v) for v in self.fgsm.split()], [float(v) for v in self.pgd.split()]


class Watch(Callback):
    """Measures both accuracies on test images at the end of each epoch, after a callback may have restored weights."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        self.fgsm: list[float] = []
        self.pgd: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attack what trains."""
        self.fgsm.append(self.accuracy(pl_module, fgsm()))
        self.pgd.append(self.accuracy(pl_module, PGD(THREAT, steps=20)))

    def accuracy(self, module: LightningModule, attack: Attack) -> float:
        """The share of the test images that withstand an attack."""
        net: Any = module.net
        x_adv = attack(net, self.x, self.y, rng=SampleRNG(0, torch.arange(len(self.x))))
        return float((logits_no_grad(net, x_adv).argmax(1) == self.y).float().mean())


def fgsm() -> PGD:
    """One step of the radius from the image itself."""
    return PGD(THREAT, steps=1, step_size=EPS, start="none")


def trained_images(root: str) -> tuple[Tensor, Tensor]:
    """The images [10000 1 28 28] and labels [10000] that are trained on."""
    x, y = FashionMNIST(root).read("train")
    return torch.from_numpy(x[:TRAINED])[:, None] / 255, torch.from_numpy(y[:TRAINED]).long()


def measure(key: Key) -> Run:
    """Train, and measure after each epoch."""
    quiet()
    seed_everything(key.seed, verbose=False)
    given = dict(ARMS[key.arm])
    callbacks = [kind() for kind in given.pop("callbacks", [])]
    defense = AT(
        SmallConvNet(10, 1, width=8),
        **{"attack": fgsm(), **given},
        optimizer=lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    )
    loader = DataLoader(TensorDataset(*trained_images(key.root)), BATCH, shuffle=True, drop_last=True)
    watch = Watch(*tested_images(key.root))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=EPOCHS, **ALONE, limit_val_batches=0, callbacks=[*callbacks, watch], default_root_dir=folder
        )
        trainer.fit(defense, loader)
    clean = float((logits_no_grad(defense.net, watch.x).argmax(1) == watch.y).float().mean())
    final = watch.accuracy(defense, PGD(THREAT, steps=20))
    fgsm_text, pgd_text = (" ".join(f"{value:.3f}" for value in curve) for curve in (watch.fgsm, watch.pgd))
    return Run(key.arm, key.seed, fgsm_text, pgd_text, round(clean, 4), round(final, 4))


def table(runs: Sequence[Run]) -> list[Row]:
    """A row for each arm."""
    rows: list[Row] = []
    for arm in ARMS:
        of = [run for run in runs if run.arm == arm]
        row: Row = {
            "training": arm,
            "clean %": spread([100 * run.final_clean for run in of], 1),
            "PGD-20 %": spread([100 * run.final_pgd for run in of], 1),
            "best PGD-20 %": spread([100 * max(run.curves[1]) for run in of], 1),
            "worst PGD-20 %": spread([100 * min(run.curves[1]) for run in of], 1),
            "greatest gap to FGSM": spread([100 * gap(run) for run in of], 1),
            "epochs": ", ".join(str(len(run.curves[1])) for run in of),
            "seeds": len(of),
        }
        rows.append(row)
    return rows


def gap(run: Run) -> float:
    """By how much the accuracy under FGSM was at most above that under PGD-20 after an epoch."""
    return max(one - several for one, several in zip(*run.curves, strict=True))


def draw(runs: Sequence[Run], results: Path) -> None:
    """Leave overfitting.png: both accuracies by epoch, a panel for each arm, a line for each seed."""
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, arm in zip(figure.subplots(1, len(ARMS), sharey=True), ARMS, strict=True):
        for number, run in enumerate(of := [run for run in runs if run.arm == arm]):
            for curve, name, colour in zip(run.curves, ("FGSM", "PGD-20"), ("tab:orange", "tab:blue"), strict=True):
                epochs = range(1, len(curve) + 1)
                axes.plot(epochs, [100 * v for v in curve], color=colour, lw=1.2, label=None if number else name)
            if len(run.curves[1]) < EPOCHS:
                axes.plot(len(run.curves[1]), 100 * run.curves[1][-1], "o", color="tab:blue", ms=4)
        axes.set(title=f"{arm} ({len(of)} seeds)", xlabel="epoch", xlim=(0.5, EPOCHS + 0.5), ylim=(0, None))
        axes.set_xticks(range(5, EPOCHS + 1, 5))
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy on test images, %")
    figure.axes[2].legend(loc="lower right", fontsize=8)
    figure.savefig(results / "overfitting.png", dpi=110)


def main(
    root: str = "/usr/share/datasets/fashion-mnist",
    seeds: int = 3,
    jobs: int = os.cpu_count() or 1,
    results: Path = RESULTS,
) -> None:
    """Measure what is missing, print the table, and leave it in `results/overfitting.{csv,md,png}`.

    Args:
        root: folder of the Fashion-MNIST files; Debian's package dataset-fashion-mnist has them there.
        seeds: how many, from 0 on.
        jobs: fits at a time, each of one thread; 0 for the table of what was measured before.
        results: where everything is left: raw numbers in overfitting_runs.csv.
    """
    wanted = [Key(arm, seed, root) for arm in ARMS for seed in range(seeds)]
    file = results / "overfitting_runs.csv"
    done = {Key(run.arm, run.seed, root) for run in read(file, Run)}
    named = {key: f"{key.arm}, seed {key.seed}" for key in wanted}
    failures = run_all(file, done, named, measure, jobs) if jobs else []
    runs = [run for run in read(file, Run) if Key(run.arm, run.seed, root) in wanted]
    if runs:
        runs.sort(key=lambda run: ([*ARMS].index(run.arm), run.seed))
        caption = (
            f"Fashion-MNIST, {TRAINED:,} training images, linf {EPS:g}, SmallConvNet of width 8, rate 0.1, at most "
            f"{EPOCHS} epochs; accuracies on {TESTED:,} test images, of the final net unless something else is said, "
            "mean ± standard deviation over seeds. "
        ) + required(
            {
                f"after some epoch of FGSM alone a gap of more than {100 * OVERFITTED:.0f} points": {
                    f"seed {run.seed}": gap(run) > OVERFITTED for run in runs if run.arm == FGSM
                },
                "after none of the others": {
                    f"{run.arm}, seed {run.seed}": gap(run) <= OVERFITTED for run in runs if run.arm != FGSM
                },
            }
        )
        print(write("overfitting", "Catastrophic overfitting", table(runs), caption, results))
        draw(runs, results)
    if failures:
        raise SystemExit("Failed, and left out:\n" + "\n".join(failures))


if __name__ == "__main__":
    auto_cli(main)
