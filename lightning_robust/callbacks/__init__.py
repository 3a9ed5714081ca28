"""Callbacks that add attacks to any LightningModule."""

from lightning_robust.callbacks.adversarial_inputs import AdversarialInputs
from lightning_robust.callbacks.robust_evaluation import RobustEvaluation

__all__ = ["AdversarialInputs", "RobustEvaluation"]
