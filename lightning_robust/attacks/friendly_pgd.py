"""Early-stopped PGD, which leaves a sample alone soon after the net errs on it: the attack of friendly training."""

import torch
from torch import Tensor

from lightning_robust.attacks import progress
from lightning_robust.attacks.call import Call
from lightning_robust.attacks.objectives import LOSSES, Loss
from lightning_robust.attacks.pgd import PGD, watched
from lightning_robust.attacks.start import Start
from lightning_robust.runtime.gradients import input_gradient
from lightning_robust.runtime.modes import samples_are_independent
from lightning_robust.threat import Threat
from lightning_robust.types import Net
from lightning_robust.utils.labels import hard_labels, is_soft


class FriendlyPGD(PGD):
    """Runs PGD that stops each sample at its point number tau + 1 on which the net errs: a training attack.

    With tau = 0 a sample goes no further than across the boundary, and one on which the net errs from the start stays
    there. With tau = steps it is PGD. Samples that have stopped leave the batch, so that a step costs less and less.
    Given to AT, TRADES or MART it makes FAT, FAT-TRADES or FAT-MART; `AttackStrength(tau=...)` changes tau by epoch.

    Args:
        threat: the perturbations allowed.
        steps: gradient steps, >= 0.
        step_size: in the units of the radius, > 0; a fraction such as "2/255" is read as such. By default
            2.5 eps / steps.
        start: "uniform", "normal" or "none", see `PGD`.
        tau: how many points on which the net errs a sample goes on from, >= 0.
        noise: standard deviation of the normal noise that is added in each step, before the projection, >= 0 (the
            authors' omega).
        loss: the objective where the caller passes none: "ce", "margin", "dlr", "label_logit" or
            "probability_margin".

    Raises:
        ValueError: for a negative tau or noise, or as `PGD` does; when called, for nets whose samples depend on each
            other (batch norms that use the batch's statistics), or for reference logits without labels.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> wrong = net(x).argmax(1) != y
        >>> x_adv = FriendlyPGD(Threat("linf", "8/255"), start="none", tau=0)(net, x, y)
        >>> torch.equal(x_adv[wrong], x[wrong])
        True

    Paper: Zhang et al. 2020 (arXiv 2002.11242), "Attacks which do not kill training make adversarial learning
    stronger", algorithm 1.
    Reference: zjfheart/Friendly-Adversarial-Training@80a0640, which returns the samples in another order.
    Deviates: none known; given start and noise, the examples are the reference's to rounding. Its FAT-MART forwards the
    adversarial batch before the clean one, where `MART` does so after it: running statistics alone differ, by up to
    0.2 % on the recorded step of tests/golden.
    """

    uses = ("objective", "step_size", "start", "labels", "reference", "soft labels")

    def __init__(
        self,
        threat: Threat | None = None,
        steps: int = 10,
        step_size: float | str | None = None,
        start: Start = "uniform",
        tau: int = 0,
        noise: float = 0.0,
        loss: Loss = "ce",
    ) -> None:
        super().__init__(threat, steps, step_size, start, loss=loss)
        if tau < 0 or noise < 0:
            raise ValueError(f"FriendlyPGD needs tau >= 0 and noise >= 0, got {tau} and {noise}.")
        self.tau = tau
        self.noise = noise

    def with_tau(self, tau: int) -> "FriendlyPGD":
        """Return the same attack with another tau."""
        return self._altered(tau=tau)

    def _perturb(self, net: Net, x: Tensor, target: Tensor, call: Call) -> Tensor:
        """Move the samples that have not stopped, step by step."""
        if not samples_are_independent(net, call.bn):
            raise ValueError(
                "FriendlyPGD stops samples one by one, which those left in the batch must not notice: set attack_bn to "
                "eval, and take batch norms with running statistics."
            )
        reference = call.objective is not None and is_soft(target)
        if reference and call.labels is None:
            raise ValueError("FriendlyPGD stops by labels, but its target is reference logits: give `labels`, too.")
        label = hard_labels(target if call.labels is None else call.labels)
        logits: list[Tensor] = []
        objective = watched(call.objective or LOSSES[self.loss], logits.append)
        step = self._step(call.eps) if call.step_size is None else call.step_size
        x_adv = (self._start(x, call) if call.start is None else call.start).clone()
        patience = torch.full_like(label, self.tau)
        left = torch.arange(len(x), device=x.device)
        for _ in progress.steps(self.steps):
            now, aim = x_adv[left], target[left]
            grad, _ = input_gradient(lambda z: objective(net(z), aim), now)  # noqa: B023  # called at once
            patience[left] -= (logits.pop().argmax(1) != label[left]).long()
            goes_on = patience[left] >= 0
            left, now, grad = left[goes_on], now[goes_on], grad[goes_on]
            if not len(left):
                break
            moved = now + step[left] * self.threat.steepest(grad, now)
            if self.noise:
                moved = moved + self.noise * call.rng.normal(x)[left]  # drawn for all, whoever is left
            x_adv[left] = self.threat.project(moved, x[left], call.eps[left])
        return x_adv
