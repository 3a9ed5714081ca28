"""Nets that take pixels in [0, 1] and give logits."""

from lightning_robust.models.normalize import Normalize, normalized
from lightning_robust.models.robustbench import RobustBenchModel
from lightning_robust.models.small import SmallConvNet

__all__ = ["Normalize", "RobustBenchModel", "SmallConvNet", "normalized"]
