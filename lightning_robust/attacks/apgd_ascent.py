"""How APGD moves and adapts its step size: with momentum for linf and l2, along few pixels for l1."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_robust.attacks.rows import Rows
from lightning_robust.threat import Threat, per_image

MOMENTUM = 0.75
"""Weight of the projected gradient step; the rest is that of the step before (arXiv 2003.01690, section 3)."""

SPARSER = 1.5
"""Factor by which an l1 step moves fewer pixels than the perturbation has, and by which the step is divided where the
perturbation no longer becomes sparser (arXiv 2103.01208, section 3.3)."""


class Given(NamedTuple):
    """What each ascent of a batch is given, one row an ascent.

    Args:
        row: the sample's position in the batch [b].
        run: which of the sample's runs it is [b].
        x: clean images [b c h w].
        y: labels [b].
        wanted: the class that a targeted run leads to [b].
        eps: radii [b 1 1 1].
    """

    row: Tensor
    run: Tensor
    x: Tensor
    y: Tensor
    wanted: Tensor
    eps: Tensor


@dataclass
class Ascent(Rows):
    """The state of ascents, of which a sample may have several: their current points and their best ones."""

    row: Tensor  # [b] the sample's position in the batch
    run: Tensor  # [b] which of the sample's runs it is
    x: Tensor  # [b c h w] clean
    y: Tensor  # [b]
    wanted: Tensor  # [b] class that a targeted run leads to
    eps: Tensor  # [b 1 1 1]
    x_adv: Tensor
    grad: Tensor  # of the objective at x_adv
    best: Tensor  # the highest point so far, with its gradient and its objective [b]
    best_grad: Tensor
    best_value: Tensor

    def observe(self, value: Tensor, grad: Tensor | None) -> None:
        """Record the objective [b] at x_adv, and its gradient if another step follows."""
        better = value > self.best_value
        self.best_value = torch.where(better, value, self.best_value)
        mask = per_image(better, self.x).bool()
        self.best = torch.where(mask, self.x_adv, self.best)
        if grad is not None:
            self.grad, self.best_grad = grad, torch.where(mask, grad, self.best_grad)

    def back_to_best(self, which: Tensor) -> None:
        """Return to the best point where `which` [b] holds."""
        mask = per_image(which, self.x).bool()
        self.x_adv = torch.where(mask, self.best, self.x_adv)
        self.grad = torch.where(mask, self.best_grad, self.grad)

    @staticmethod
    @abstractmethod
    def checkpoints(steps: int) -> dict[int, int]:
        """Return after which steps `adapt` is called, each with the number of steps since the call before."""

    @abstractmethod
    def move(self, threat: Threat, first: bool) -> None:
        """Take one step along the gradient; `first` tells whether it is the first."""

    @abstractmethod
    def adapt(self, window: int, rho: float) -> None:
        """Choose the next step sizes from what the last `window` steps gained."""


@dataclass
class Momentum(Ascent):
    """The ascent for linf and l2: steps with momentum, halved where they stop raising the objective."""

    before: Tensor  # x_adv one step ago
    value: Tensor  # [b] objective one step ago
    step: Tensor  # [b 1 1 1]
    rises: Tensor  # [b] steps that raised the objective since the last checkpoint
    checked: Tensor  # [b] best_value at the last checkpoint
    kept: Tensor  # [b] whether the step was kept there
    from_zero: bool  # whether the first step counts as a rise where its objective is above 0, not above the start's

    @classmethod
    def begin(cls, given: Given, x_adv: Tensor, from_zero: bool = False) -> "Momentum":
        """Return the state before the first step."""
        common = _common(given, x_adv)
        high = -common["best_value"]
        none = torch.zeros_like(given.row)
        steps = {"before": x_adv, "value": high, "step": 2 * given.eps, "checked": high}
        return cls(**common, **steps, rises=none, kept=none.bool(), from_zero=from_zero)

    def observe(self, value: Tensor, grad: Tensor | None) -> None:
        """Record the objective, and count the steps that raised it."""
        super().observe(value, grad)
        start = self.checked == math.inf
        self.checked = torch.where(start, value, self.checked)
        self.rises = self.rises + (value > self.value)
        self.value = value.masked_fill(start, 0) if self.from_zero else value

    @staticmethod
    def checkpoints(steps: int) -> dict[int, int]:
        """Return windows of 22 % of the steps, each shorter than the last by 3 % of the steps, down to 6 %."""
        window, shorter, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
        out, done = {}, window
        while done <= steps:
            out[done] = window
            window = max(window - shorter, least)
            done += window
        return out

    def move(self, threat: Threat, first: bool) -> None:
        """Take a gradient step, and add a share of the step before, if there was one."""
        z = threat.project(self.x_adv + self.step * threat.steepest(self.grad), self.x, self.eps)
        if not first:
            z = self.x_adv + MOMENTUM * (z - self.x_adv) + (1 - MOMENTUM) * (self.x_adv - self.before)
            z = threat.project(z, self.x, self.eps)
        self.before, self.x_adv = self.x_adv, z

    def adapt(self, window: int, rho: float) -> None:
        """Halve the step and return to the best point where too few steps, or all together, raised the objective."""
        halve = (self.rises <= rho * window) | (self.kept & (self.checked >= self.best_value))
        self.step = torch.where(per_image(halve, self.x).bool(), self.step / 2, self.step)
        self.back_to_best(halve)
        self.rises, self.checked, self.kept = torch.zeros_like(self.rises), self.best_value, ~halve


@dataclass
class Sparse(Ascent):
    """The ascent for l1: each step moves a share of the pixels, which follows the sparsity of the best point."""

    step: Tensor  # [b 1 1 1]
    share: Tensor  # [b] of the pixels that a step moves
    changed: Tensor  # [b] pixels that differed from the clean image in the best point at the last checkpoint

    @classmethod
    def begin(cls, given: Given, x_adv: Tensor) -> "Sparse":
        """Return the state before the first step."""
        x = given.x
        changed = (x_adv != x).flatten(1).sum(1).to(x)
        share = changed / x[0].numel() / SPARSER
        return cls(**_common(given, x_adv), step=given.eps, share=share, changed=changed)

    @staticmethod
    def checkpoints(steps: int) -> dict[int, int]:
        """Return a checkpoint after every 4 % of the steps."""
        window = max(int(0.04 * steps), 1)
        return dict.fromkeys(range(window, steps + 1, window), window)

    def move(self, threat: Threat, first: bool) -> None:
        """Step along the signs of the largest gradients, then project into ball and box."""
        size = self.grad.flatten(1).abs()
        d = size.shape[1]
        place = ((1 - self.share) * d).clamp(0, d - 1).long()
        least = size.sort(dim=1).values.gather(1, place[:, None])
        sign = self.grad.flatten(1).sign() * (size >= least)
        direction = sign / sign.abs().sum(1, keepdim=True).clamp_min(1)
        self.x_adv = threat.project(self.x_adv + self.step * direction.view_as(self.x), self.x, self.eps)

    def adapt(self, window: int, rho: float) -> None:
        """Start over from the best point with the full step where it became sparser; elsewhere shorten the step."""
        changed = (self.best != self.x).flatten(1).sum(1).to(self.share)
        sparser = changed < 0.95 * self.changed
        step = torch.where(per_image(sparser, self.x).bool(), self.eps, self.step / SPARSER)
        self.step = torch.maximum(step, self.eps / 10)
        self.share, self.changed = changed / self.x[0].numel() / SPARSER, changed
        self.back_to_best(sparser)


def _common(given: Given, x_adv: Tensor) -> dict[str, Tensor]:
    """Return the fields that both kinds of ascent begin with: no gradient yet, and no best value."""
    zero = torch.zeros_like(given.x)
    low = torch.full_like(given.x.flatten(1)[:, 0], -math.inf)
    return {**given._asdict(), "x_adv": x_adv, "grad": zero, "best": x_adv, "best_grad": zero, "best_value": low}
