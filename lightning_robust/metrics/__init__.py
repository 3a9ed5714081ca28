"""Metrics of robustness, exact over batches and ranks; `lightning_robust.metrics.functional` has their functions."""

from lightning_robust.metrics.attack_success_rate import AttackSuccessRate
from lightning_robust.metrics.corruption_error import ALEXNET_ERRORS, COMMON_CORRUPTIONS, CorruptionError
from lightning_robust.metrics.effective_margin import EffectiveMargin
from lightning_robust.metrics.perturbation_norm import PerturbationNorm
from lightning_robust.metrics.robust_accuracy import RobustAccuracy

__all__ = [
    "ALEXNET_ERRORS",
    "COMMON_CORRUPTIONS",
    "AttackSuccessRate",
    "CorruptionError",
    "EffectiveMargin",
    "PerturbationNorm",
    "RobustAccuracy",
]
