"""The check of strength: whether a stronger attack breaks what withstood the evaluation."""

from lightning_robust.attacks.apgd import APGD
from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.ensemble import Ensemble
from lightning_robust.attacks.sigma_zero import SigmaZero
from lightning_robust.attacks.sparse_rs import SparseRS
from lightning_robust.evaluation.check import Check, judged
from lightning_robust.threat import Norm, Threat

TARGETS = 9
"""Number of classes to which APGD-T leads each sample, as in AutoAttack."""

STEPS = 20
"""Steps per target. On digits they find all but 2 of 64 of what AutoAttack does, at a fifth of its cost."""

MORE_STEPS = 50
"""Steps per target if the result is close, and on samples that an attack without gradients broke."""

TOLERANCE: dict[Norm, float] = {"linf": 0.1, "l2": 0.1, "l1": 0.15, "l0": 0.15}
"""Largest tolerated share of samples, by norm."""

TOO_HIGH = 0.25
"""Share above which the check fails."""


def reference(threat: Threat, steps: int = STEPS) -> Attack:
    """Return the attack that an evaluation is held against: APGD-T, which is APGD on the targeted DLR loss.

    What it finds depends neither on the scale of the logits nor on their shift, where cross-entropy saturates. In l0
    it is sigma-zero, and after it Sparse-RS, which uses no gradients: on sound nets that breaks up to 19 % more of the
    samples.

    Args:
        threat: the perturbations allowed.
        steps: gradient steps for each target.
    """
    if threat.norm == "l0":
        attacks = {"sigma-zero": SigmaZero(threat, TARGETS * steps), "sparse-rs": SparseRS(threat, TARGETS * steps)}
        return Ensemble(attacks)
    return APGD(threat, targets=TARGETS, steps=steps)


def is_close(broken: int, n: int, norm: Norm) -> bool:
    """Return whether so many of n samples broken are tolerated, but with a few more they might not be.

    Example:
        >>> is_close(2, 64, "linf"), is_close(6, 64, "linf"), is_close(8, 64, "linf")
        (False, True, False)
    """
    return TOLERANCE[norm] / 2 < broken / n <= TOLERANCE[norm]


def strength(broken: int, n: int, norm: Norm) -> Check:
    """Check whether a strong attack broke many of n samples after they had withstood the evaluation.

    Args:
        broken: how many withstood the evaluation, but not the attack of `reference`.
        n: the number of all samples that were probed.
        norm: the threat's, which decides what is tolerated.
    """
    attack, remedy = (
        "APGD-T",
        ("AutoAttack (version plus if you already do), or more steps with the margin or DLR loss."),
    )
    if norm == "l0":
        attack, remedy = "Sigma-zero and Sparse-RS", "them, or more steps and queries."
    told = f"{attack} broke {broken} of {n} samples that had withstood the evaluation"
    weak = f"{told}: the evaluation's attacks are too weak, so the reported accuracy is too high. Use {remedy}"
    return judged("strength", broken / n, max(TOLERANCE[norm], 1 / n), TOO_HIGH, f"{told}.", weak)
