"""Instance-adaptive adversarial training (IAAT): every training sample has a radius of its own."""

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from lightning_robust.attacks.pgd import PGD
from lightning_robust.defenses.at import AT
from lightning_robust.defenses.own_moves import as_pgd
from lightning_robust.defenses.sample_radii import SampleRadii
from lightning_robust.runtime.modes import logits_no_grad, samples_are_independent
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.types import Batch, Views, to_float
from lightning_robust.utils.labels import hard_labels

Aim: TypeAlias = tuple[PGD, Tensor]
"""The attack, and each sample's target: its label [b] or [b k], or the class to lead to [b]."""


class IAAT(SampleRadii, AT):
    """Trains on `CE(f(x'), y)` with x' in a ball whose radius e_i belongs to the sample and follows what the net bears.

    In the first `warmup` epochs e_i is the attack's radius where the clean image is classified correctly, else 0. Then,
    at each visit, the attack probes the raised radius e_i + gamma and the present one:

        t = e_i + gamma   if the net withstands the raised radius,
            e_i           else, if it withstands the present one,
            e_i - gamma   else;   and t = 0 if it errs on the clean image, t >= 0 always,
        e_i <- beta t + (1 - beta) e_i.

    With `probing="lazy"` the radii are exactly those of `probing="all"` under the same random numbers: a probe leaves a
    sample out only where its answer could not change t, which takes samples that do not see each other (batch norms in
    evaluation mode). The training examples differ: they continue from a probe's example, projected into the new ball,
    for `refine_steps` steps instead of starting afresh. `refine_steps=None` starts afresh and gives the same examples.

    Training batches must carry the samples' positions, and checkpoints hold the radii; see `SampleRadii`.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        gamma: how far the radius is raised or lowered, in pixels; a fraction such as "1.9/255" is read as such.
        beta: weight of the new radius, in (0, 1].
        warmup: number of epochs before the radii adapt, >= 0.
        cap: upper bound of the radii, in pixels; by default there is none.
        probing: "lazy", or "all" as the authors: both probes on every sample, for any `attack_bn`.
        refine_steps: number of steps that continue from a probe's example, with "lazy" probing; see above.
        kwargs: settings of `Defense`. The attack's step is the larger of its `step_size` and 2 e_i / steps.

    Raises:
        ValueError: for settings out of range, "lazy" where batch norms let samples see each other, or batches without
            positions, or with such as cannot be.

    Example:
        >>> from lightning_robust.models import SmallConvNet
        >>> model = IAAT(SmallConvNet(in_channels=1, num_classes=10), attack=PGD(steps=2), warmup=0)
        >>> model.radii.prepare(4, torch.device("cpu"))  # Lightning's fit does so, for the whole training set
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4), index=torch.arange(4))
        >>> views = model.generate(batch)
        >>> model.radii.values.shape
        torch.Size([4])

    Paper: Balaji et al. 2019 (arXiv 1910.08051), algorithms 1 and 2.
    Reference: yogeshbalaji/Instance_Adaptive_Adversarial_Training@49f5f14; to reproduce it, `probing="all"` and
    `attack_bn="train"`.
    Deviates: by default in the mode of the batch norms and in the training examples (see above); random starts are
    clamped into the box.
    """

    def __init__(
        self,
        net: nn.Module,
        gamma: float | str = "1.9/255",
        beta: float = 0.1,
        warmup: int = 10,
        cap: float | str | None = None,
        probing: Literal["lazy", "all"] = "lazy",
        refine_steps: int | None = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(net, **kwargs)
        self.gamma = to_float(gamma)
        self.beta = beta
        self.warmup = warmup
        self.cap = None if cap is None else to_float(cap)
        self.probing = probing
        self.refine_steps = refine_steps
        if probing not in ("lazy", "all") or (refine_steps is not None and refine_steps < 0):
            raise ValueError(
                f"IAAT needs probing 'lazy' or 'all' and refine_steps >= 0, got {probing!r}, {refine_steps}."
            )
        as_pgd("IAAT", self.attack)
        if self.gamma < 0 or not 0 < beta <= 1 or warmup < 0 or (self.cap is not None and self.cap < 0):
            raise ValueError(
                f"IAAT needs gamma, warmup and cap >= 0 and beta in (0, 1], got {gamma}, {warmup}, {cap}, {beta}."
            )
        if probing == "lazy" and not samples_are_independent(net, self.attack_bn):
            by_mode = samples_are_independent(net)
            cause = f"attack_bn={self.attack_bn!r}" if by_mode else "a batch norm without running statistics"
            raise ValueError(
                f"probing='lazy' attacks some samples without the others, which {cause} does not allow: set "
                "probing='all'" + (" or attack_bn='eval'." if by_mode else ".")
            )

    def generate(self, batch: Batch) -> Views:
        """Move each sample's radius, and attack the sample within it."""
        index = self.positions(batch)
        right = self._withstands(batch.x, batch.y)
        rng = self.rng(batch)
        start = None
        steps = None
        aim = as_pgd("IAAT", self.attack).aimed(batch.y, rng)  # one target for all that is asked of a sample
        if self.current_epoch < self.warmup:
            eps = self.attack.threat.eps * right
        else:
            present = self.radii[index]
            probe = self._probe_open if self.probing == "lazy" else self._probe_all
            raised_ok, present_ok, reached = probe(batch, aim, right, present, rng)
            lowered = torch.where(present_ok, present, present - self.gamma)
            target = torch.where(raised_ok, present + self.gamma, lowered)
            eps = self.beta * (target * right).clamp_min(0) + (1 - self.beta) * present
            if self.probing == "lazy" and self.refine_steps is not None:
                start = self.attack.threat.project(reached, batch.x, eps)
                steps = self.refine_steps
        if self.cap is not None:
            eps = eps.clamp_max(self.cap)
        self.radii[index] = eps
        return Views(self._attack(aim, batch.x, eps, rng.fork(2), start, steps))

    def _probe_all(
        self, batch: Batch, aim: Aim, right: Tensor, present: Tensor, rng: SampleRNG
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return whether each sample withstands the raised radius, whether the present one, and the last examples."""
        at_present = self._attack(aim, batch.x, present, rng.fork(0))
        at_raised = self._attack(aim, batch.x, present + self.gamma, rng.fork(1))
        present_ok = self._withstands(at_present, batch.y)
        return self._withstands(at_raised, batch.y), present_ok, at_raised

    def _probe_open(
        self, batch: Batch, aim: Aim, right: Tensor, present: Tensor, rng: SampleRNG
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `_probe_all` does, but probe only where the answer matters; elsewhere it is False."""
        raised_ok = torch.zeros_like(right)
        present_ok = torch.zeros_like(right)
        reached = batch.x.clone()
        for number, radius, answer in ((1, present + self.gamma, raised_ok), (0, present, present_ok)):
            some = torch.nonzero(right & ~raised_ok)[:, 0]
            if len(some):
                x_adv = self._attack((aim[0], aim[1][some]), batch.x[some], radius[some], rng.fork(number)[some])
                answer[some] = self._withstands(x_adv, batch.y[some])
                reached[some] = x_adv
        return raised_ok, present_ok, reached

    def _attack(
        self, aim: Aim, x: Tensor, eps: Tensor, rng: SampleRNG, start: Tensor | None = None, steps: int | None = None
    ) -> Tensor:
        attack, target = aim
        step = (2 * eps / max(attack.steps, 1)).clamp_min(attack.step_size or 0.0)
        attack = attack if steps is None else attack.with_steps(steps)
        return attack(self.net, x, target, eps=eps, step_size=step, start=start, bn=self.attack_bn, rng=rng)

    def _withstands(self, x: Tensor, y: Tensor) -> Tensor:
        return logits_no_grad(self.net, x, self.attack_bn).argmax(1) == hard_labels(y)
