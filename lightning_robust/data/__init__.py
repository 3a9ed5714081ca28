"""Data modules: images in [0, 1], labels and dataset positions."""

from lightning_robust.data.base import RobustDataModule
from lightning_robust.data.cifar_c import CIFAR10C, CIFAR100C
from lightning_robust.data.common_corruptions import CommonCorruptions, Corrupted
from lightning_robust.data.corruptions import Corruptions
from lightning_robust.data.digits import Digits
from lightning_robust.data.imagenet_c import ImageNetC
from lightning_robust.data.sampling import EpochSampler, Indexed, MixedSampler, ResumableLoader
from lightning_robust.data.semisupervised import SemiSupervised

__all__ = [
    "CIFAR10C",
    "CIFAR100C",
    "CommonCorruptions",
    "Corrupted",
    "Corruptions",
    "Digits",
    "EpochSampler",
    "ImageNetC",
    "Indexed",
    "MixedSampler",
    "ResumableLoader",
    "RobustDataModule",
    "SemiSupervised",
]
