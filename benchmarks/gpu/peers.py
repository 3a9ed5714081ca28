"""Training steps beside ours: torchattacks, and loops as authors write them."""

from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from benchmarks.common.training import STEPS, sgd
from benchmarks.training_peers import EPS, STEP, Peer, Step, authors, torchattacks
from lightning_robust.types import Batch

BETA = 6.0
"""Of TRADES."""


def at_loop(net: nn.Module, batch: Batch) -> Step:
    """Adversarial training as in locuslab/robust_overfitting: in training mode, by whole backward passes."""
    optimizer, x, y = sgd(net.parameters()), batch.x, batch.y

    def step() -> None:
        net.train()
        delta = torch.empty_like(x).uniform_(-EPS, EPS)
        delta = ((x + delta).clamp(0, 1) - x).requires_grad_()
        for _ in range(STEPS):
            torch.autograd.backward(cross_entropy(net(x + delta), y))
            assert delta.grad is not None
            moved = (delta + STEP * delta.grad.sign()).detach().clamp(-EPS, EPS)
            delta = ((x + moved).clamp(0, 1) - x).requires_grad_()
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(net((x + delta).detach()), y))
        optimizer.step()

    return step


def trades_loop(net: nn.Module, batch: Batch) -> Step:
    """TRADES as in yaodongyu/TRADES: the clean images go through the net in each step of the attack, too."""
    optimizer, x, y = sgd(net.parameters()), batch.x, batch.y

    def divergence(z: Tensor) -> Tensor:
        return kl_div(log_softmax(net(z), 1), softmax(net(x), 1), reduction="sum")

    def step() -> None:
        net.eval()
        x_adv = x + 0.001 * torch.randn_like(x)
        for _ in range(STEPS):
            x_adv = x_adv.detach().requires_grad_()
            (grad,) = torch.autograd.grad(divergence(x_adv), x_adv)
            moved = x_adv.detach() + STEP * grad.sign()
            x_adv = torch.minimum(torch.maximum(moved, x - EPS), x + EPS).clamp(0, 1)
        net.train()
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(net(x), y) + BETA / len(x) * divergence(x_adv.detach()))
        optimizer.step()

    return step


def peers(method: str, folder: Path | None) -> dict[str, Peer]:
    """Those of a method that are at hand; the authors' own code only where there are clones of it."""
    found: dict[str, Peer] = {}
    if method == "AT":
        try:
            import_module("torchattacks")
            found[f"torchattacks {version('torchattacks')}"] = torchattacks
        except ImportError:
            pass  # the table says so
        found["loop as the authors'"] = at_loop
    if method == "TRADES":
        found["loop as the authors'"] = trades_loop
    if folder is not None and method == "TRADES":
        found["authors"] = authors(folder, "TRADES", "trades", "trades_loss")
    if folder is not None and method == "ST":
        found["authors"] = authors(folder, "ST-AT", "losses", "stat_loss", needs=["utils"], loss_mode="kl")
    return found
