"""Checks of gradient-based attacks: signs that they fail although the net has adversarial examples."""

from functools import partial

from torch import Tensor

from lightning_robust.attacks.entrance import entered
from lightning_robust.attacks.pgd import PGD
from lightning_robust.evaluation.check import Check, judged
from lightning_robust.evaluation.probe import Probe
from lightning_robust.losses import cross_entropy
from lightning_robust.runtime.gradients import input_gradient
from lightning_robust.threat import Threat
from lightning_robust.types import Net

STEPS = 50
"""The number of steps of the attacks that probe a net."""


def zero_gradients(probe: Probe) -> Check:
    """Check on how many samples the cross-entropy's input gradient is exactly zero or not finite."""
    zero = 0
    for part in probe.batches:
        with entered(part.net, part.x, part.y, part.threat, "eval", part.rng) as (net, x, y, _):
            # only with a graph are entries that are not finite left as they are
            gradient, _ = input_gradient(partial(_cross_entropy, net, y), x, create_graph=True)
        zero += int(((gradient == 0).flatten(1).all(1) | ~gradient.isfinite().flatten(1).all(1)).sum())
    told = f"The cross-entropy's input gradient is exactly zero or not finite on {zero} of {len(probe)} samples"
    blind = f"{told}: gradient-based attacks on this loss are blind there."
    return judged("gradients", zero / len(probe), 0, 0.1, f"{told}.", blind)


def more_steps(probe: Probe) -> Check:
    """Check whether PGD raises the loss of most samples above its random start's, and more steps do not lower it."""
    begin, first, last = (
        cross_entropy(probe.attacked(PGD(probe.threat, steps=steps)).double(), probe.y) for steps in (0, 1, STEPS)
    )
    risen, means = int((last > begin).sum()), [float(loss.mean()) for loss in (begin, first, last)]
    told = (
        f"PGD with {STEPS} steps raised the cross-entropy of {risen} of {len(probe)} samples above its random start's; "
        f"its mean was {means[0]:.4g} there, {means[1]:.4g} after 1 step, {means[2]:.4g} after {STEPS}"
    )
    # The mean would not do: one sample that a random start breaks may outweigh all others.
    if probe.threat.eps > 0 and risen < 0.5 * len(probe):
        return Check("more_steps", "fail", f"{told}: the attack gains nothing.")
    if not means[2] >= 0.95 * means[1]:  # written so that NaN fails too
        return Check("more_steps", "fail", f"{told}: more steps make the attack weaker.")
    return Check("more_steps", "pass", f"{told}.")


def huge_radius(probe: Probe) -> Check:
    """Check whether PGD reaches accuracy 0 when any image is allowed."""
    low, high = probe.threat.lower, probe.threat.upper
    # In linf the fewest steps reach every image of the box. From a random start the net would err without an attack.
    left = int(probe.standing(PGD(Threat("linf", high - low, low, high), steps=STEPS, start="none")).sum())
    told = f"{left} of {len(probe)} samples withstand PGD with {STEPS} steps when any image is allowed"
    missed = f"{told}: every net errs on some image, so the attack misses what is there."
    return judged("huge_radius", left / len(probe), 0, 0.05, f"{told}.", missed)


def strength(broken: int, n: int) -> Check:
    """Check whether a short Auto-PGD broke many of n samples after they had withstood the evaluation."""
    told = f"Auto-PGD with {STEPS} steps broke {broken} of {n} samples that withstood the evaluation"
    # Two short Auto-PGDs with different starts differ by up to 6 of 63 for l1 on scikit-learn's digits.
    return judged("strength", broken / n, max(0.15, 1 / n), 0.25, f"{told}.", f"{told}: its attacks are too weak.")


def _cross_entropy(net: Net, y: Tensor, x: Tensor) -> Tensor:
    return cross_entropy(net(x), y)
