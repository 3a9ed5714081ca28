"""Adversarial perturbations of the weights, in force while the training loss is computed."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
import torch.distributed
from torch import Tensor, nn

from lightning_robust.runtime.modes import frozen_running_stats
from lightning_robust.runtime.ranks import world_size


class WeightPerturbation(ABC):
    """Moves the weights to where the loss is worse; the defense moves them back.

    Only weights of two dimensions or more move: neither biases nor the scales of batch norms. On several ranks the
    gradient that directs the move is averaged, so that every rank moves as one process on the joined batch would.

    Args:
        gamma: size of the perturbation relative to the weights, >= 0.
        start_epoch: epochs before this one (counting from 0) are left alone.
        restore: "before_step" puts the weights back after the backward pass, bit for bit, and the optimizer steps from
            there. "after_step" lets the optimizer step on the perturbed weights and subtracts the perturbation then, as
            the authors do: weight decay then also acts on the perturbation. (While gradients accumulate, only the last
            batch's perturbation is met by the optimizer; the others are put back as "before_step" does.)

    Raises:
        ValueError: for a negative gamma.
    """

    def __init__(
        self, gamma: float = 0.01, start_epoch: int = 0, restore: Literal["before_step", "after_step"] = "before_step"
    ) -> None:
        if gamma < 0:
            raise ValueError(f"gamma must be >= 0, got {gamma}.")
        self.gamma, self.start_epoch, self.restore = gamma, start_epoch, restore

    @abstractmethod
    def direction(
        self, net: nn.Module, weights: list[nn.Parameter], loss_fn: Callable[[], Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Directions, and scalars: each weight will move by gamma times both. The weights themselves stay."""

    def __call__(self, net: nn.Module, loss_fn: Callable[[], Tensor], epoch: int) -> Callable[[], None]:
        """Perturb `net` in place against `loss_fn() -> [b]`; returns the call that restores it."""
        if epoch < self.start_epoch:
            return lambda: None
        weights = [p for name, p in net.named_parameters() if p.dim() > 1 and "weight" in name and p.requires_grad]
        with frozen_running_stats(net):
            moves, sizes = self.direction(net, weights, loss_fn)
        saved = [w.detach().clone() for w in weights] if self.restore == "before_step" else []
        _shift(weights, moves, sizes, self.gamma)
        if self.restore == "before_step":
            return lambda: _assign(weights, saved)
        return lambda: _shift(weights, moves, sizes, -self.gamma)


class AdversarialWeightPerturbation(WeightPerturbation):
    """Adversarial weight perturbation: each layer moves along its gradient by gamma times its own norm.

    Args: see `WeightPerturbation`.

    Paper: Wu et al. 2020 (arXiv 2004.05884), equations 8 and 10.
    Reference: csdongxian/AWP@a7acf5d.
    Deviates: `restore="before_step"`, where the authors' weight decay also acts on the perturbation: the step differs
    by lr x weight decay x perturbation, 0.004 % of it on the recorded step of tests/golden (rate 0.1, decay 5e-4);
    "after_step" reproduces theirs.
    """

    def direction(
        self, net: nn.Module, weights: list[nn.Parameter], loss_fn: Callable[[], Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """`||w|| g / ||g||`, layer by layer."""
        gradient = _gradient(loss_fn().mean(), weights)
        return gradient, [_times(w.detach().norm(), g.norm()) for w, g in zip(weights, gradient, strict=True)]


class RobustWeightPerturbation(WeightPerturbation):
    """Robust weight perturbation: only samples with a small loss direct the move, whose norm is set for all layers
    together.

    Args:
        gamma: see `WeightPerturbation`.
        threshold: samples whose loss is below it direct the move.
        steps: gradient steps, >= 1.
        start_epoch: see `WeightPerturbation`.
        restore: see `WeightPerturbation`.

    Paper: Yu et al. 2022 (arXiv 2205.14826), "Robust weight perturbation for adversarial training".
    Reference: ChaojianYu/Robust-Weight-Perturbation@1aaa83f. Its code for TRADES adds tensors of different shapes and
    cannot run; here the loss of each sample is the method's own.
    Deviates: `restore="before_step"`, as `AWP`.
    """

    def __init__(
        self,
        gamma: float = 0.01,
        threshold: float = 1.7,
        steps: int = 10,
        start_epoch: int = 0,
        restore: Literal["before_step", "after_step"] = "before_step",
    ) -> None:
        super().__init__(gamma, start_epoch, restore)
        if steps < 1:
            raise ValueError(f"steps must be >= 1, got {steps}.")
        self.threshold, self.steps = threshold, steps

    def direction(
        self, net: nn.Module, weights: list[nn.Parameter], loss_fn: Callable[[], Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """`||w|| a / ||a||` over all layers, where a sums the gradients met on the way."""
        saved = [w.detach().clone() for w in weights]
        size = _norm(saved)
        walked, sizes = [torch.zeros_like(w) for w in saved], [torch.zeros_like(size)] * len(saved)
        try:
            for _ in range(self.steps):
                _assign(weights, saved)
                _shift(weights, walked, sizes, self.gamma)
                loss = loss_fn()
                easy = (loss < self.threshold).detach()
                for total, g in zip(walked, _gradient((loss * easy).mean(), weights), strict=True):
                    total += g
                sizes = [_times(size, _norm(walked))] * len(walked)
        finally:
            _assign(weights, saved)
        return walked, sizes


def _gradient(loss: Tensor, weights: list[nn.Parameter]) -> list[Tensor]:
    """The gradient of the loss, averaged over the ranks."""
    gradient = list(torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True))
    if world_size() > 1:
        flat = torch.cat([g.flatten() for g in gradient])
        torch.distributed.all_reduce(flat)
        flat /= world_size()
        gradient = [
            part.view_as(g) for part, g in zip(torch.split(flat, [g.numel() for g in gradient]), gradient, strict=True)
        ]
    return gradient


def _norm(tensors: list[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t) for t in tensors]))
    return norm


def _times(size: Tensor, norm: Tensor) -> Tensor:
    """How many times a tensor of that norm has the size; 0 where it is zero."""
    return torch.where(norm > 0, size / norm, torch.zeros_like(norm))


@torch.no_grad()
def _assign(weights: list[nn.Parameter], values: list[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)
    torch.clear_autocast_cache()  # it may hold half-precision copies of the weights as they were


@torch.no_grad()
def _shift(weights: list[nn.Parameter], moves: list[Tensor], sizes: list[Tensor], factor: float) -> None:
    for weight, move, size in zip(weights, moves, sizes, strict=True):
        weight.addcmul_(move, size, value=factor)
    torch.clear_autocast_cache()
