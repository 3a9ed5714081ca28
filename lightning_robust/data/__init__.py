"""Data modules: images in [0, 1], labels and dataset positions."""

from lightning_robust.data.base import RobustDataModule
from lightning_robust.data.cifar import CIFAR10, CIFAR100
from lightning_robust.data.cifar_c import CIFAR10C, CIFAR100C
from lightning_robust.data.common_corruptions import CommonCorruptions, Corrupted
from lightning_robust.data.corruptions import Corruptions
from lightning_robust.data.digits import Digits
from lightning_robust.data.imagenet import ImageNet
from lightning_robust.data.imagenet_c import ImageNetC
from lightning_robust.data.mnist import MNIST
from lightning_robust.data.sampling import EpochSampler, Indexed, MixedSampler, ResumableLoader
from lightning_robust.data.semisupervised import SemiSupervised
from lightning_robust.data.svhn import SVHN
from lightning_robust.data.tiny_imagenet import TinyImageNet

__all__ = [
    "CIFAR10",
    "CIFAR10C",
    "CIFAR100",
    "CIFAR100C",
    "MNIST",
    "SVHN",
    "CommonCorruptions",
    "Corrupted",
    "Corruptions",
    "Digits",
    "EpochSampler",
    "ImageNet",
    "ImageNetC",
    "Indexed",
    "MixedSampler",
    "ResumableLoader",
    "RobustDataModule",
    "SemiSupervised",
    "TinyImageNet",
]
