"""What a PGD-10 adversarial training step costs over the passes it consists of, and what precision settings save.

python benchmarks/attack_step.py [--batch_size 32] [--rounds 20] [--device cuda]
"""

import copy
import logging
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from harness import Arm, Row, Spread, interleave, now, ratio, timed, write
from jsonargparse import auto_cli
from lightning import Callback, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from lightning_robust.defenses import AT
from lightning_robust.losses import cross_entropy
from lightning_robust.types import Batch

STEPS = 10
CLOSE = {"32-true": 1e-3, "bf16-mixed": 2e-2}
"""How far, relatively, a setting's very first loss may lie from that of fp32."""


def small_resnet18() -> nn.Module:
    """ResNet-18 for 32x32 images: a 3x3 stem without stride or pooling."""
    net: nn.Module = resnet18(num_classes=10)
    net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


def sgd(params: Any) -> torch.optim.SGD:
    return torch.optim.SGD(params, lr=0.01, momentum=0.9, weight_decay=5e-4)


def primitives(net: nn.Module, batch: Batch) -> Callable[[], None]:
    """Ten input gradients of the frozen net in evaluation mode, then one weight gradient in training mode and SGD."""
    optimizer = sgd(net.parameters())

    def run() -> None:
        net.eval().requires_grad_(False)
        for _ in range(STEPS):
            x = batch.x.clone().requires_grad_()
            torch.autograd.grad(cross_entropy(net(x), batch.y).sum(), x)
        net.train().requires_grad_(True)
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(net(batch.x), batch.y).mean())
        optimizer.step()

    return run


def bare_loop(net: nn.Module, batch: Batch) -> Callable[[], None]:
    """The defense's own route without a Trainer."""
    defense = AT(net, optimizer=sgd)
    optimizer = defense.configure_optimizers()

    def run() -> None:
        loss = defense.loss(batch, defense.generate(batch)).total.mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    return run


class Clock(Callback):
    """When each training step ended, and its loss; from the second step on the attack has all its steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))
        module.attack.steps = STEPS
        self.ends.append(now())


class Fit:
    """An arm: `Trainer.fit` on two batches, timed from the end of the first step to the end of the second.

    So loading, transfer, hooks and logging are in, and what happens once per fit (or per process: compilation) is out.
    From the second fit on, the first step runs one attack step only, to spend less on what is not counted.
    """

    def __init__(self, net: nn.Module, batch: Batch, precision: Any = "32-true", **settings: Any) -> None:
        self.defense = AT(net, optimizer=sgd, **settings)
        self.precision = precision
        self.accelerator = batch.x.device.type
        dataset = TensorDataset(batch.x.cpu().repeat(2, 1, 1, 1), batch.y.cpu().repeat(2))
        self.loader = DataLoader(dataset, batch_size=len(batch.x))
        self.loss = math.nan

    def __call__(self) -> float:
        clock = Clock()
        trainer = Trainer(
            max_epochs=1,
            accelerator=self.accelerator,
            devices=1,
            precision=self.precision,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(self.defense, self.loader)
        self.defense.attack.steps = 1  # until the next fit's first step is over
        if math.isnan(self.loss):
            self.loss = clock.losses[0]
        return clock.ends[1] - clock.ends[0]


def row(name: str, seconds: dict[str, list[float]], fit: Fit | None) -> Row:
    """One line of the table."""
    spent = Spread.of(seconds[name])
    over = ratio(seconds[name], seconds["primitive passes"])
    of = ratio(seconds[name], seconds["with Lightning"])
    return {
        "step": name,
        "seconds": spent.median,
        "quartiles": f"{spent.low:.3g} to {spent.high:.3g}",
        "over the passes": over.median,
        "its quartiles": f"{over.low:.3f} to {over.high:.3f}",
        "over fp32 with Lightning": of.median,
        "first loss": fit.loss if fit else "",
    }


def main(batch_size: int = 16, rounds: int = 5, device: str = "cpu") -> None:
    """Measure, print the table, and leave it in results/attack_step.{csv,md}."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    seed_everything(0, verbose=False)
    net = small_resnet18().to(device)
    x = torch.rand(batch_size, 3, 32, 32, device=device)
    batch = Batch(x, torch.randint(10, (batch_size,), device=device))

    def fresh() -> nn.Module:
        return copy.deepcopy(net)

    fits = {
        "with Lightning": Fit(fresh(), batch),
        "channels_last": Fit(fresh(), batch, channels_last=True),
        "bf16-mixed": Fit(fresh(), batch, "bf16-mixed"),
        "bf16-mixed + channels_last": Fit(fresh(), batch, "bf16-mixed", channels_last=True),
        "compile": Fit(fresh(), batch, compile=True),
    }
    arms: dict[str, Arm] = {
        "primitive passes": timed(primitives(fresh(), batch)),
        "bare loop": timed(bare_loop(fresh(), batch)),
        **fits,
    }
    seconds = interleave(arms, rounds)
    rows = [row(name, seconds, fits.get(name)) for name in arms]
    title = f"A PGD-{STEPS} adversarial training step: ResNet-18, batch {batch_size} of 3x32x32, {device}"
    print(write("attack_step", title, rows))
    fp32 = fits["with Lightning"].loss
    for name, fit in fits.items():
        if not abs(fit.loss / fp32 - 1) < CLOSE[fit.precision]:
            raise RuntimeError(f"{name} changes what is computed: the loss is {fit.loss:.5f}, in fp32 {fp32:.5f}.")


if __name__ == "__main__":
    auto_cli(main)
