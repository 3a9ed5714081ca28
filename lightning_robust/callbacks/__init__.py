"""Callbacks that add attacks, robust evaluation and figures to any LightningModule."""

from lightning_robust.callbacks.adversarial_inputs import AdversarialInputs
from lightning_robust.callbacks.attack_strength import AttackStrength
from lightning_robust.callbacks.averaged_weights import AveragedWeights
from lightning_robust.callbacks.batch_norm_momentum import BatchNormMomentum
from lightning_robust.callbacks.catastrophic_overfitting import CatastrophicOverfitting
from lightning_robust.callbacks.corruption_accuracy import CorruptionAccuracy
from lightning_robust.callbacks.curves import Curves
from lightning_robust.callbacks.effective_margins import EffectiveMargins
from lightning_robust.callbacks.epoch_lines import EpochLines
from lightning_robust.callbacks.fair_averaged_weights import FairAveragedWeights
from lightning_robust.callbacks.progress_bar import RobustProgressBar
from lightning_robust.callbacks.pseudo_labels import PseudoLabels
from lightning_robust.callbacks.radius_histogram import RadiusHistogram
from lightning_robust.callbacks.robust_evaluation import RobustEvaluation
from lightning_robust.callbacks.unsound_evaluation import UnsoundEvaluation

__all__ = [
    "AdversarialInputs",
    "AttackStrength",
    "AveragedWeights",
    "BatchNormMomentum",
    "CatastrophicOverfitting",
    "CorruptionAccuracy",
    "Curves",
    "EffectiveMargins",
    "EpochLines",
    "FairAveragedWeights",
    "PseudoLabels",
    "RadiusHistogram",
    "RobustEvaluation",
    "RobustProgressBar",
    "UnsoundEvaluation",
]
