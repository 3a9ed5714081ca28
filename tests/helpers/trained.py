"""Small nets trained on scikit-learn's digits in seconds, on which attacks break some samples and not others."""

from functools import lru_cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_robust.attacks import PGD
from lightning_robust.losses import cross_entropy
from lightning_robust.models import SmallConvNet
from lightning_robust.threat import Threat

EPS = {"linf": 0.12, "l2": 0.6, "l1": 2.0}
"""Radii at which about half of the samples fall on the robust net."""


@lru_cache
def digits() -> tuple[Tensor, Tensor]:
    """All 1797 images [1797 1 8 8] in [0, 1], shuffled, and their labels."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    return x[order], torch.tensor(data.target)[order]


@lru_cache
def trained_net(robust: bool = True, epochs: int = 6) -> nn.Module:
    """Trained on samples 200 to 1796, by adversarial training or without; in evaluation mode.

    On one thread: with more, sums are rounded otherwise, and the nets would differ between machines.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = SmallConvNet(width=8)
        optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=5e-4)
        x, y = (part[200:] for part in digits())
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(64):
                x_adv = PGD(Threat("linf", 0.12), steps=4)(net, x[rows], y[rows]) if robust else x[rows]
                optimizer.zero_grad()
                cross_entropy(net(x_adv), y[rows]).mean().backward()
                optimizer.step()
    torch.set_num_threads(threads)
    return net.eval()


@lru_cache
def distilled_net(temperature: float = 40.0, epochs: int = 20) -> nn.Module:
    """Trained at a temperature on the answers of a teacher trained at it; its logits leave cross-entropy no gradient.

    Paper: Papernot et al. 2016 (arXiv 1511.04508), broken by Carlini & Wagner 2017 (arXiv 1608.04644).
    """
    x, y = (part[200:] for part in digits())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = _trained_at(temperature, epochs, x, y)
        with torch.no_grad():
            answers = (teacher(x) / temperature).softmax(1)
        return _trained_at(temperature, epochs, x, answers)


def _trained_at(temperature: float, epochs: int, x: Tensor, answers: Tensor) -> nn.Module:
    net = SmallConvNet(width=8)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x[rows]) / temperature, answers[rows])
            (temperature * loss).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
    return net.eval()


def held_out(n: int = 100) -> tuple[Tensor, Tensor]:
    """Of the 200 that the nets were not trained on."""
    x, y = digits()
    return x[:n], y[:n]
