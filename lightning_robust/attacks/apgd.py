"""Auto-PGD (APGD): projected gradient ascent that adapts its step size to what the steps gain."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from lightning_robust.attacks import progress
from lightning_robust.attacks.apgd_ascent import Ascent, Given, Momentum, Sparse
from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.call import Call
from lightning_robust.attacks.hyperplane import nearest_classes
from lightning_robust.attacks.objectives import LOSSES, Loss
from lightning_robust.attacks.runs import Runs
from lightning_robust.attacks.success import misclassified
from lightning_robust.losses import distinct, runners_up, targeted_dlr
from lightning_robust.runtime.gradients import detached, input_gradient
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Norm, Threat, per_image
from lightning_robust.types import Net, Objective
from lightning_robust.utils.labels import hard_labels

A = TypeVar("A", bound="APGD")

CANDIDATES = 100
"""Among how many of the most probable classes the nearest are looked for."""

L1_PHASES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
"""For l1 the climb begins in a larger ball: (multiple of the radius, share of the steps) (arXiv 2103.01208, s. 3.4)."""


class APGD(Attack):
    """Runs APGD (APGD-CE, APGD-DLR), or with `targets` its targeted form (APGD-T); meant for evaluation.

    For linf and l2:

        z = project(x_i + step steepest(gradient)),   x_(i+1) = project(x_i + 3/4 (z - x_i) + 1/4 (x_i - x_(i-1)))

    with a first step of 2 eps. At checkpoints, which come ever closer, the step is halved where fewer than `rho` of the
    steps raised the objective or nothing was gained since the last checkpoint; there the ascent goes on from its best
    point. For l1, the steps follow the largest gradients, in balls of three, two and one times the radius.

    A sample leaves the batch as soon as it is misclassified (in fp32 too, where the search runs under autocast; with
    `eot` in each of the passes), and further targets and restarts take its place (see `Runs`). What is misclassified
    from the start is returned as it is; what never is, at the highest point found.

    Args:
        threat: the perturbations allowed.
        steps: gradient steps of a run, >= 1.
        loss: "ce", "dlr", "margin", "label_logit" or "probability_margin". With `targets` it is the targeted DLR loss.
        targets: the number of wrong classes to lead to in turn; all, where the net has fewer.
        order: which of them come first: the most probable ("logits"), or those whose boundary is nearest for the net
            linearised at the image ("distance"), which takes up to 100 backward passes more.
        restarts: random starts (for each target), >= 1.
        eot: forward passes averaged in each step, for nets that are random, >= 1.
        rho: share of the steps that must raise the objective, in (0, 1).

    Raises:
        ValueError: for a setting out of its range or an unknown loss.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> x_adv = APGD(Threat("linf", "8/255"), steps=10)(net, x, y)
        >>> bool((x_adv - x).abs().max() <= 8 / 255 + 1e-6)
        True

    Paper: Croce & Hein 2020 (arXiv 2003.01690), algorithm 1; for l1 Croce & Hein 2021 (arXiv 2103.01208); the order by
    distance Melamed et al. 2024 (MALT, arXiv 2407.02240).
    Reference: fra31/auto-attack@a392200; odeliamel/MALT@2e7d57b.
    Deviates: the authors compare the objective after the first step with 0, here with the start's. Their samples stay
        in the batch until a run ends, and runs follow one another, which changes no verdict of a net that is not
        random. With `eot` they return the last point on which the last pass errs, here a point on which all passes err,
        or else the highest: see `AutoAttack` for what that changes. For l1 the larger balls are always used, there in
        the standard version.
    """

    uses: Collection[str] = ("objective", "start", "soft labels")
    _from_zero = False

    def __init__(
        self,
        threat: Threat | None = None,
        steps: int = 100,
        loss: Loss = "ce",
        targets: int | None = None,
        restarts: int = 1,
        eot: int = 1,
        rho: float = 0.75,
        order: Literal["logits", "distance"] = "logits",
    ) -> None:
        super().__init__(threat)
        self.steps = steps
        self.loss = loss
        self.targets = targets
        self.order = order
        self.restarts = restarts
        self.eot = eot
        self.rho = rho
        counts = {"steps": steps, "targets": 1 if targets is None else targets, "restarts": restarts, "eot": eot}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}.")
        if not 0 < rho < 1:
            raise ValueError(f"rho must lie between 0 and 1, got {rho}.")
        if loss not in LOSSES:
            raise ValueError(f"Unknown loss {loss!r}: choose one of {', '.join(LOSSES)}.")
        if order not in ("logits", "distance"):
            raise ValueError(f"Unknown order {order!r} of targets: choose logits or distance.")

    def with_steps(self: A, steps: int) -> A:
        """Return the same attack with another number of steps."""
        return self._altered(steps=steps)

    def _perturb(self, net: Net, x: Tensor, target: Tensor, call: Call) -> Tensor:
        """Run every restart towards every target; what is misclassified from the start is returned as it is."""
        with torch.no_grad():
            passes = torch.stack([net(x) for _ in range(self.eot)])
        wanted = self._targets(net, x, passes.mean(0), target)
        each = Runs(~_always_misclassified(net, x, passes, target), distinct(wanted) * self.restarts)
        wanted = wanted.repeat_interleave(self.restarts, 1)
        found = _Found(x.clone(), torch.full_like(x.flatten(1)[:, 0], -torch.inf), each)
        for row, run in each:
            if call.start is None:
                begin = self._start(x[row], call.eps[row], call.rng[row].fork(run))
            else:
                begin = call.start[row]
            given = Given(row, run, x[row], target[row], wanted[row, run], call.eps[row])
            self._run(net, given, begin, call.objective, found)
        return found.x_adv

    def _targets(self, net: Net, x: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        """Return the classes [b m] that runs lead to; the label itself, in runs that are not targeted."""
        if self.targets is None:
            return hard_labels(y)[:, None]
        if self.order == "logits":
            return runners_up(logits, y, self.targets)
        return nearest_classes(net, x, hard_labels(y), CANDIDATES, self.threat.norm)[:, : self.targets]

    def _start(self, x: Tensor, eps: Tensor, rng: SampleRNG) -> Tensor:
        """Return a random point of the ball's surface (for l1, of the largest ball's), clamped into the box."""
        if self.threat.norm == "linf":
            noise = 2 * rng.uniform(x) - 1
            noise = noise / per_image(noise.flatten(1).abs().amax(1), x)
        elif self.threat.norm == "l2":
            noise = rng.normal(x)
            noise = noise / per_image(noise.flatten(1).norm(dim=1), x)
        else:
            return self.threat.project(x + rng.normal(x), x, L1_PHASES[0][0] * eps)
        return self.threat.restrict((x + eps * noise).clamp(self.threat.lower, self.threat.upper), x)

    def _run(
        self, net: Net, given: Given, x_adv: Tensor, objective: Objective | None, found: "_Found | None"
    ) -> Tensor:
        """Ascend once from `x_adv` (for l1, once in each of the shrinking balls), and return the best points."""
        if self.threat.norm != "l1":
            state = Momentum.begin(given, detached(x_adv), self._from_zero)
            return self._ascend(net, state, objective, self.steps, found)
        left = self.steps
        for multiple, share in progress.phases(L1_PHASES):
            last = multiple == 1
            steps = left if last else min(math.ceil(share * self.steps), left)
            ball = given._replace(eps=multiple * given.eps)
            sparse = Sparse.begin(ball, self.threat.project(x_adv, given.x, ball.eps))
            x_adv = self._ascend(net, sparse, objective, steps, found if last else None)
            left -= steps
        return x_adv

    def _ascend(self, net: Net, s: Ascent, objective: Objective | None, steps: int, found: "_Found | None") -> Tensor:
        """Ascend for so many steps, and return the best points of the samples that are not broken yet."""
        checkpoints = s.checkpoints(steps)
        for i in progress.steps(steps + 1):
            passes, value, grad = self._observe(net, s, objective, gradient=i < steps)
            if found is not None and (wrong := _always_misclassified(net, s.x_adv, passes, s.y)).any():
                found.success(s.row[wrong], s.run[wrong], s.x_adv[wrong])
                stay = torch.nonzero(found.runs.open(s.row, s.run))[:, 0]
                s, value, grad = s[stay], value[stay], grad[stay]
                if not len(stay):
                    break
            s.observe(value, grad)
            if i in checkpoints:
                s.adapt(checkpoints[i], self.rho)
            if i < steps:
                s.move(self.threat, first=i == 0)
        if found is not None:
            found.highest(s.row, s.run, s.best, s.best_value)
        return s.best

    def _observe(
        self, net: Net, s: Ascent, objective: Objective | None, gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits of each pass [eot b k], and the mean objective [b] and its gradient (if asked for)."""
        seen = []

        def value(z: Tensor) -> Tensor:
            seen.append(net(z))
            if objective is not None:
                return objective(seen[-1], s.y)
            return LOSSES[self.loss](seen[-1], s.y) if self.targets is None else targeted_dlr(seen[-1], s.y, s.wanted)

        grad, height = torch.zeros_like(s.x), torch.zeros_like(s.best_value)
        for _ in range(self.eot):
            if gradient:
                grad_once, once = input_gradient(value, s.x_adv)
                grad = grad + grad_once / self.eot
            else:
                with torch.no_grad():
                    once = value(s.x_adv)
            height = height + once / self.eot
        return torch.stack([z.detach() for z in seen]), height, grad


def _always_misclassified(net: Net, x_adv: Tensor, passes: Tensor, y: Tensor) -> Tensor:
    """Return on which samples [b] the net erred in every pass, given the logits of each [passes b k]."""
    return torch.stack([misclassified(net, x_adv, logits, y) for logits in passes]).all(0)


@dataclass
class _Found:
    """Holds the best example of each sample over all runs: a misclassified one, or else the highest objective's."""

    x_adv: Tensor
    height: Tensor
    runs: Runs

    def success(self, row: Tensor, run: Tensor, x_adv: Tensor) -> None:
        """Keep misclassified examples; where several runs of a sample have one, the first run's."""
        self.runs.settle(row, run)
        first = self.runs.first[row] == run
        self.x_adv[row[first]] = x_adv[first]

    def highest(self, row: Tensor, run: Tensor, x_adv: Tensor, value: Tensor) -> None:
        """Keep points of a higher objective than before, for samples that are not misclassified."""
        for number in sorted(set(run.tolist())):
            better = (run == number) & (value > self.height[row]) & (self.runs.first[row] == self.runs.count[row])
            self.x_adv[row[better]] = x_adv[better]
            self.height[row[better]] = value[better].to(self.height)


def apgd(net: Net, x: Tensor, y: Tensor, norm: Norm = "linf", eps: float | str = "8/255", **settings: Any) -> Tensor:
    """Run APGD as a plain function.

    Args:
        net: images [b c h w] to logits [b k], in any mode; it is left exactly as it was.
        x: clean images [b c h w] in [0, 1].
        y: labels [b].
        norm: "linf", "l2" or "l1".
        eps: radius in pixels; a fraction such as "8/255" is read as such.
        settings: those of `APGD`.

    Returns:
        Examples [b c h w].

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> x_adv = apgd(net, x, y, eps="8/255", loss="dlr", steps=10)
        >>> bool((x_adv - x).abs().max() <= 8 / 255 + 1e-6)
        True
    """
    return APGD(Threat(norm, eps), **settings)(net, x, y)
