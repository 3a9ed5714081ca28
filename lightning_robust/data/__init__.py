"""Data modules: images in [0, 1], labels and dataset positions."""

from lightning_robust.data.base import RobustDataModule
from lightning_robust.data.digits import Digits
from lightning_robust.data.sampling import EpochSampler, Indexed, MixedSampler, ResumableLoader
from lightning_robust.data.semisupervised import SemiSupervised

__all__ = [
    "Digits",
    "EpochSampler",
    "Indexed",
    "MixedSampler",
    "ResumableLoader",
    "RobustDataModule",
    "SemiSupervised",
]
