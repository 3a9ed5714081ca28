"""Projected gradient descent, and the single-step and momentum attacks that are settings of it."""

from typing import Any

import torch
from torch import Tensor

from lightning_robust.attacks import progress
from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.call import Call
from lightning_robust.attacks.objectives import LOSSES, Loss
from lightning_robust.attacks.start import Start, check_start, starting_point
from lightning_robust.runtime.gradients import input_gradient
from lightning_robust.runtime.ranks import has_sync_batchnorm
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Norm, Threat, per_image
from lightning_robust.types import Net, Objective, Watch, to_float
from lightning_robust.utils.labels import hard_labels, is_soft

TARGETS = 1812
"""Identifies the random stream from which target classes are drawn; the value is arbitrary."""


class PGD(Attack):
    """Runs projected gradient descent on any objective, for any norm.

    `x <- project(x + step_size * steepest(gradient))`, `steps` times.

    FGSM is `steps=1, start="none", step_size=eps`; R-FGSM is `steps=1`; MI-FGSM is `momentum=1, start="none"`.

    Args:
        threat: the perturbations allowed.
        steps: gradient steps, >= 0.
        step_size: in the units of the radius, > 0; a fraction such as "2/255" is read as such. By default
            2.5 eps / steps.
        start: "uniform" in the ball, "normal" (0.001 N(0, 1), as TRADES and its family), or "none".
        restarts: independent starts, >= 1. A sample stops restarting once it is misclassified; if it never is, the
            restart with the highest objective counts.
        momentum: decay of the accumulated gradient (MI-FGSM), >= 0.
        targeted: descend the objective, towards the target, instead of ascending it.
        random_targets: number of classes, >= 2. Each call draws, for each sample, a class other than its label as the
            target; it takes `targeted=True` (ImageNet training of Xie et al. 2019, arXiv 1812.03411, section 5).
        clean_start: probability, in [0, 1], that a call starts at the clean images instead, with all samples of the
            batch on all ranks (0.2 in that training).
        loss: the objective where the caller passes none: "ce", "margin" (the CW attack of robustness evaluations),
            "dlr", "label_logit" (minus the label's logit, for nets such as `MaxMahalanobis`) or "probability_margin".

    Raises:
        ValueError: for negative steps, a step size that is not > 0, no restarts, an unknown start or loss, a
            clean_start out of range, random targets of fewer than two classes, without `targeted`, or when called with
            reference logits; for restarts where SyncBatchNorm would wait for ever, or that are watched.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> x_adv = PGD(Threat("linf", "8/255"), steps=10, step_size="2/255")(net, x, y)
        >>> bool((x_adv - x).abs().max() <= 8 / 255 + 1e-6)
        True

    Paper: Madry et al. 2018 (arXiv 1706.06083), section 2.1; FGSM: Goodfellow et al. 2015 (arXiv 1412.6572);
    R-FGSM: Wong et al. 2020 (arXiv 2001.03994), algorithm 3; MI-FGSM: Dong et al. 2018 (arXiv 1710.06081), algorithm 1.
    Reference: locuslab/fast_adversarial@54f7287 (R-FGSM), thu-ml/ares@306e35f and
    dedeswim/vits-robustness-torch@2f5a214 (training on ImageNet),
    facebookresearch/ImageNet-Adversarial-Training@1ad68f0 (clean_start).
    Deviates: given the start, each step of the first three references is met to rounding. thu-ml/ares trains on the
    step of the highest loss instead of the last. It computes the last step's loss on pixels that are not normalised,
    and so mostly trains on the step before: on the recorded steps of tests/golden 18 % and 38 % of the pixels and 0.4 %
    of the loss differ. dedeswim/vits-robustness-torch adds 1e-5 to the start and attacks the most probable class of a
    soft label.
    """

    uses = ("objective", "step_size", "start", "watch", "reference", "soft labels")

    def __init__(
        self,
        threat: Threat | None = None,
        steps: int = 10,
        step_size: float | str | None = None,
        start: Start = "uniform",
        restarts: int = 1,
        momentum: float = 0.0,
        targeted: bool = False,
        random_targets: int | None = None,
        loss: Loss = "ce",
        clean_start: float = 0.0,
    ) -> None:
        super().__init__(threat)
        self.steps = steps
        self.step_size = None if step_size is None else to_float(step_size)
        self.start = start
        self.restarts = restarts
        self.momentum = momentum
        self.targeted = targeted
        self.random_targets = random_targets
        self.loss = loss
        self.clean_start = clean_start
        if steps < 0:
            raise ValueError(f"steps must be >= 0, got {steps}.")
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(f"step_size must be > 0, got {self.step_size}; leave it out for 2.5 eps / steps.")
        if restarts < 1:
            raise ValueError(f"restarts must be >= 1, got {restarts}.")
        if momentum < 0:
            raise ValueError(f"momentum must be >= 0, got {momentum}.")
        if random_targets is not None and (random_targets < 2 or not targeted):
            raise ValueError(f"random_targets needs two classes or more and targeted=True, got {random_targets}.")
        if not 0 <= clean_start <= 1:
            raise ValueError(f"clean_start must be a probability in [0, 1], got {clean_start}.")
        check_start(start)
        if loss not in LOSSES:
            raise ValueError(f"Unknown loss {loss!r}: choose one of {', '.join(LOSSES)}.")

    def _perturb(self, net: Net, x: Tensor, target: Tensor, call: Call) -> Tensor:
        """Run the attack from each start in turn, and keep the strongest example of each sample."""
        if self.restarts > 1 and call.bn != "eval" and has_sync_batchnorm(net):
            raise ValueError(
                "Restarts run on other samples on each rank, which SyncBatchNorm in training mode waits for: set "
                "attack_bn to eval, or restarts to 1."
            )
        objective = call.objective or LOSSES[self.loss]
        if call.watch is not None:
            if self.restarts > 1:
                raise ValueError("The points of several restarts cannot be watched: set the attack's restarts to 1.")
            objective = watched(objective, call.watch)
        step = self._step(call.eps) if call.step_size is None else call.step_size
        labelled = call.objective is None or not is_soft(target)  # else there is nothing to be misclassified as
        if self.random_targets is not None and not labelled:
            raise ValueError("Random targets stand in for labels, but the attack was called with reference logits.")
        _, target = self.aimed(target, call.rng)
        begin = call.start
        if begin is None:
            clean = self.clean_start > 0 and call.rng.shared_uniform() < self.clean_start
            begin = x.clone() if clean else self._start(x, call)
        x_adv = self._ascend(net, x, target, objective, call.eps, step, begin, call.rng)
        for restart in range(1, self.restarts):
            solved, value = self._judge(net, x_adv, target, objective, labelled)
            left = torch.nonzero(~solved)[:, 0]
            if not len(left):
                break
            # drawn for all: `rng[left]` would start over from the same numbers at each restart
            begin = self._start(x, call)[left]
            rng = call.rng[left].fork(restart)
            again = self._ascend(net, x[left], target[left], objective, call.eps[left], step[left], begin, rng)
            solved, new = self._judge(net, again, target[left], objective, labelled)
            better = solved | (new > value[left])
            x_adv = x_adv.index_copy(0, left[better], again[better])
        return x_adv

    def _step(self, eps: Tensor) -> Tensor:
        if self.step_size is None:
            return 2.5 * eps / max(self.steps, 1)
        return torch.full_like(eps, self.step_size)

    def _start(self, x: Tensor, call: Call) -> Tensor:
        return starting_point(x, self.threat, self.start, call.eps, call.rng)

    def with_threat(self, threat: Threat) -> "PGD":
        """Return the same attack under another threat.

        A step size that was chosen for a threat keeps its proportion to the radius. One that was given without a threat
        stays as it is, and one in another norm is left out, for the attack's own of 2.5 eps / steps.
        """
        other = super().with_threat(threat)
        if threat.norm != self.threat.norm:
            other.step_size = None
        elif self.step_size is not None and self.threat_given and self.threat.eps and threat.eps:
            other.step_size = self.step_size * threat.eps / self.threat.eps
        return other

    @property
    def reach(self) -> float:
        """How far its steps can lead in all, in the units of the radius; less than the radius makes it weak."""
        return self.steps * self.step_size if self.step_size is not None else 2.5 * self.threat.eps

    def aimed(self, y: Tensor, rng: SampleRNG) -> tuple["PGD", Tensor]:
        """Return the attack and its target: classes [b] drawn for the labels y, or y itself without random targets."""
        if self.random_targets is None:
            return self, y
        other = self._altered(random_targets=None)
        self._checked = True  # the copy is the one that is called, and checks its input
        return other, other_classes(y, self.random_targets, rng.fork(TARGETS))

    def with_steps(self, steps: int) -> "PGD":
        """Return the same attack with another number of steps."""
        return self._altered(steps=steps)

    def with_step_size(self, step_size: float) -> "PGD":
        """Return the same attack with another step size, >= 0."""
        return self._altered(step_size=step_size)

    def move(self, x_adv: Tensor, x: Tensor, grad: Tensor, eps: Tensor, step: Tensor, rng: SampleRNG) -> Tensor:
        """Return the points [b c h w] one step along a gradient from `x_adv`, back in ball and box.

        Args:
            x_adv: the points [b c h w].
            x: clean images [b c h w].
            grad: the gradient there [b c h w].
            eps: radius of each sample [b 1 1 1].
            step: step of each sample [b 1 1 1].
            rng: random numbers of this step.
        """
        return self.threat.project(x_adv + step * self.threat.steepest(grad, x_adv), x, eps)

    def _ascend(
        self,
        net: Net,
        x: Tensor,
        target: Tensor,
        objective: Objective,
        eps: Tensor,
        step: Tensor,
        x_adv: Tensor,
        rng: SampleRNG,
    ) -> Tensor:
        """Take the steps of one run from `x_adv`."""
        sign = -1 if self.targeted else 1
        velocity = torch.zeros_like(x)
        for number in progress.steps(self.steps):
            grad, _ = input_gradient(lambda z: objective(net(z), target), x_adv)
            if self.momentum:
                size = per_image(grad.flatten(1).abs().sum(1).clamp_min(torch.finfo(grad.dtype).tiny), grad)
                velocity = self.momentum * velocity + grad / size
                grad = velocity
            x_adv = self.move(x_adv, x, sign * grad, eps, step, rng.fork(number))
        return x_adv

    @torch.no_grad()
    def _judge(
        self, net: Net, x_adv: Tensor, target: Tensor, objective: Objective, labelled: bool
    ) -> tuple[Tensor, Tensor]:
        """Return which samples are misclassified (or, targeted, classified as the target), and the value to raise."""
        logits = net(x_adv)
        value = objective(logits, target) * (-1 if self.targeted else 1)
        if not labelled:
            return torch.zeros_like(value, dtype=torch.bool), value
        return (logits.argmax(1) == hard_labels(target)) == self.targeted, value


def watched(objective: Objective, watch: Watch) -> Objective:
    """Return an objective that tells `watch` the logits that it is called with."""

    def told(logits: Tensor, target: Tensor) -> Tensor:
        watch(logits.detach())
        return objective(logits, target)

    return told


def other_classes(y: Tensor, k: int, rng: SampleRNG) -> Tensor:
    """Return one of k classes for each sample [b] that is not its label, all others equally probable."""
    further = rng.uniform(torch.empty(len(y), 1, device=y.device))[:, 0]
    return (hard_labels(y) + 1 + (further * (k - 1)).long()) % k


def pgd(net: Net, x: Tensor, y: Tensor, norm: Norm = "linf", eps: float | str = "8/255", **settings: Any) -> Tensor:
    """Run PGD as a plain function.

    Args:
        net: images [b c h w] to logits [b k], in any mode; it is left exactly as it was.
        x: clean images [b c h w] in [0, 1].
        y: labels [b].
        norm: "linf", "l2" or "l1".
        eps: radius in pixels; a fraction such as "8/255" is read as such.
        settings: those of `PGD`.

    Returns:
        Examples [b c h w].

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> x_adv = pgd(net, x, y, eps="8/255", steps=5)
        >>> bool((x_adv - x).abs().max() <= 8 / 255 + 1e-6)
        True
    """
    return PGD(Threat(norm, eps), **settings)(net, x, y)
