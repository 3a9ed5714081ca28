"""Metrics of robustness, exact over batches and ranks."""

from lightning_robust.metrics.attack_success_rate import AttackSuccessRate
from lightning_robust.metrics.corruption_error import ALEXNET_ERRORS, COMMON_CORRUPTIONS, CorruptionError
from lightning_robust.metrics.effective_margin import EffectiveMargin
from lightning_robust.metrics.functional import effective_margin, effective_weight_norm, is_correct, wilson_interval
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
    "effective_margin",
    "effective_weight_norm",
    "is_correct",
    "wilson_interval",
]
