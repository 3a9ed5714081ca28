"""Parts that any defense takes: regularizers, sample weights, weight perturbations and per-sample memory."""

# its classes are found by their names, on the command line, once they are imported
import lightning_robust.parts.lr_schedules  # noqa: F401
from lightning_robust.parts.adversarial_weight_perturbation import AdversarialWeightPerturbation
from lightning_robust.parts.asam import ASAM
from lightning_robust.parts.class_means import ClassMeans
from lightning_robust.parts.distances import Distance
from lightning_robust.parts.grad_align import GradAlign
from lightning_robust.parts.kappa_weights import KappaWeights
from lightning_robust.parts.local_linearity import LocalLinearity
from lightning_robust.parts.log_weight_norms import LogWeightNorms
from lightning_robust.parts.parameter_groups import ParameterGroups
from lightning_robust.parts.per_sample import PerSample
from lightning_robust.parts.regularizers import EffectiveWeightNorm, InputGradient, Regularizer
from lightning_robust.parts.reweighting import MarginWeights, Reweighting
from lightning_robust.parts.robust_weight_perturbation import RobustWeightPerturbation
from lightning_robust.parts.sam import SAM
from lightning_robust.parts.teacher import Teacher
from lightning_robust.parts.weight_perturbation import WeightPerturbation

__all__ = [
    "ASAM",
    "SAM",
    "AdversarialWeightPerturbation",
    "ClassMeans",
    "Distance",
    "EffectiveWeightNorm",
    "GradAlign",
    "InputGradient",
    "KappaWeights",
    "LocalLinearity",
    "LogWeightNorms",
    "MarginWeights",
    "ParameterGroups",
    "PerSample",
    "Regularizer",
    "Reweighting",
    "RobustWeightPerturbation",
    "Teacher",
    "WeightPerturbation",
]
