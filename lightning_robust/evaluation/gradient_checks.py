"""Checks of gradient-based attacks: signs that they fail although the net has adversarial examples."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lightning_robust.attacks.entrance import entered
from lightning_robust.attacks.objectives import LOSSES, Loss
from lightning_robust.attacks.pgd import PGD
from lightning_robust.evaluation.check import Check, judged
from lightning_robust.evaluation.losses_used import SPOKEN, in_words
from lightning_robust.evaluation.probe import Probe
from lightning_robust.runtime.gradients import input_gradient
from lightning_robust.threat import Threat

STEPS = 50
"""The number of steps of the attacks that probe a net."""

ROUNDS = 5
"""Number of parts into which the PGD steps are split; samples already broken are left out between parts."""


def zero_gradients(probe: Probe, losses: Sequence[Loss]) -> Check:
    """Check on how many samples no loss has an input gradient that is finite and not exactly zero."""
    left, tried = probe, list[Loss]()
    for loss in losses:
        tried.append(loss)
        left = left[torch.cat([_blind(part, loss) for part in left.batches])]
        if not len(left):
            break
    told = (
        f"The input gradient of {in_words(tried)} is exactly zero or not finite on {len(left)} of {len(probe)} samples"
    )
    blind = f"{told}: attacks that follow it are blind there."
    return judged("gradients", len(left) / len(probe), 0, 0.1, f"{told}.", blind)


def _blind(part: Probe, loss: Loss) -> Tensor:
    """Mark the samples [b] on which the loss has no gradient to follow; it costs what a step of an attack does."""
    broken: list[Tensor] = []
    with entered(part.net, part.x, part.y, part.threat, "eval", part.rng) as (net, x, y, _):

        def value(z: Tensor) -> Tensor:
            # `input_gradient` sets entries that are not finite to zero: see them before
            z.register_hook(lambda grad: broken.append(~grad.isfinite().flatten(1).all(1)))  # type: ignore[no-untyped-call]
            return LOSSES[loss](net(z), y)

        gradient, _ = input_gradient(value, x)
    return broken[0] | (gradient == 0).flatten(1).all(1)


def more_steps(probe: Probe, loss: Loss) -> Check:
    """Check whether PGD raises the loss of most samples above its random start's, and more steps do not lower it."""
    threat = steppable(probe.threat)
    begin, first, last = (
        LOSSES[loss](replace(probe, threat=threat).attacked(PGD(threat, steps=steps, loss=loss)).double(), probe.y)
        for steps in (0, 1, STEPS)
    )
    risen, means = int((last > begin).sum()), [float(values.mean()) for values in (begin, first, last)]
    told = (
        f"PGD with {STEPS} steps raised the {SPOKEN[loss]} of {risen} of {len(probe)} samples above its random "
        f"start's; its mean was {means[0]:.4g} there, {means[1]:.4g} after 1 step, {means[2]:.4g} after {STEPS}"
    )
    # The mean would not do: one sample that a random start breaks may outweigh all others.
    if probe.threat.eps > 0 and risen < 0.5 * len(probe):
        return Check("more_steps", "fail", f"{told}: the attack gains nothing.")
    if not means[2] - means[0] >= 0.95 * (means[1] - means[0]):  # written so that NaN fails too
        return Check("more_steps", "fail", f"{told}: more steps make the attack weaker.")
    return Check("more_steps", "pass", f"{told}.")


def steppable(threat: Threat) -> Threat:
    """Return a threat in which gradient steps can be taken: itself, or the l2 ball around the changes that l0 allows.

    Example:
        >>> str(steppable(Threat("l0", 9))), str(steppable(Threat("linf", 0.1)))
        ('l2 3', 'linf 0.1')
    """
    if threat.norm != "l0":
        return threat
    width = threat.upper - threat.lower
    return replace(threat, norm="l2", eps=math.sqrt(threat.eps) * (width if width < math.inf else 1.0))


def huge_radius(probe: Probe, loss: Loss) -> Check:
    """Check whether PGD reaches accuracy 0 when any image is allowed."""
    low, high = probe.threat.lower, probe.threat.upper
    if math.isinf(high - low):  # any image of the tenfold range, where there is no wall
        least, greatest = (float(v) for v in torch.aminmax(probe.x))
        wide = 10 * max(greatest - least, 1.0)
        low, high = max(low, least - wide), min(high, greatest + wide)
    # In linf the fewest steps reach every image of the box. From a random start the net would err without an attack.
    box = Threat("linf", high - low, low, high)
    attack = PGD(box, steps=STEPS // ROUNDS, step_size=2.5 * box.eps / STEPS, start="none", loss=loss)
    left = replace(probe, threat=box)
    for _ in range(ROUNDS):  # what errs need not go on; the whole box lies within reach of each of its images
        left = left.moved(attack)
        left = left[left.logits.argmax(1) == left.y] if len(left) else left
    told = f"{len(left)} of {len(probe)} samples withstand PGD with {STEPS} steps when any image is allowed"
    missed = f"{told}: every net errs on some image, so the attack misses what is there."
    return judged("huge_radius", len(left) / len(probe), 0, 0.05, f"{told}.", missed)


def first_passing(check: Callable[[Probe, Loss], Check], probe: Probe, losses: Sequence[Loss]) -> Check:
    """Check one loss after the other until one passes; return that result, or else the first."""
    results = []
    for loss in losses:
        results.append(check(probe, loss))
        if results[-1].status == "pass":
            return results[-1]
    return results[0]
