"""Parts that any defense takes: regularizers, sample weights, weight perturbations and per-sample memory."""

from lightning_robust.parts.adversarial_weight_perturbation import AdversarialWeightPerturbation
from lightning_robust.parts.per_sample import PerSample
from lightning_robust.parts.regularizers import EffectiveWeightNorm, InputGradient, Regularizer
from lightning_robust.parts.reweighting import MarginWeights, Reweighting
from lightning_robust.parts.robust_weight_perturbation import RobustWeightPerturbation
from lightning_robust.parts.weight_perturbation import WeightPerturbation

__all__ = [
    "AdversarialWeightPerturbation",
    "EffectiveWeightNorm",
    "InputGradient",
    "MarginWeights",
    "PerSample",
    "Regularizer",
    "Reweighting",
    "RobustWeightPerturbation",
    "WeightPerturbation",
]
