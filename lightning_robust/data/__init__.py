"""Data modules whose batches hold images in [0, 1], labels and dataset positions."""

from lightning_robust.data.array_data_module import Arrays
from lightning_robust.data.batch_mixing import BatchMixing
from lightning_robust.data.cifar import CIFAR10, CIFAR100
from lightning_robust.data.cifar_c import CIFAR10C, CIFAR100C
from lightning_robust.data.common_corruptions import CommonCorruptions
from lightning_robust.data.corrupted_dataset import CorruptedDataset
from lightning_robust.data.corruption_data_module import CorruptionDataModule
from lightning_robust.data.corruption_suite import CorruptionSuite
from lightning_robust.data.data_module import RobustDataModule
from lightning_robust.data.digits import Digits
from lightning_robust.data.epoch_sampler import EpochSampler
from lightning_robust.data.fashion_mnist import FashionMNIST
from lightning_robust.data.hf_dataset import HFDataset
from lightning_robust.data.idbh import IDBH
from lightning_robust.data.image_folder import ImageFolder
from lightning_robust.data.imagenet import ImageNet
from lightning_robust.data.imagenet_c import ImageNetC
from lightning_robust.data.indexed_dataset import Indexed
from lightning_robust.data.mixed_sampler import MixedSampler
from lightning_robust.data.mnist import MNIST
from lightning_robust.data.random_erasing import RandomErasing
from lightning_robust.data.resumable_loader import ResumableLoader
from lightning_robust.data.semisupervised import SemiSupervised
from lightning_robust.data.svhn import SVHN
from lightning_robust.data.timm_rand_augment import TimmRandAugment
from lightning_robust.data.tiny_imagenet import TinyImageNet
from lightning_robust.data.torchvision_data import TorchvisionData

__all__ = [
    "CIFAR10",
    "CIFAR10C",
    "CIFAR100",
    "CIFAR100C",
    "IDBH",
    "MNIST",
    "SVHN",
    "Arrays",
    "BatchMixing",
    "CommonCorruptions",
    "CorruptedDataset",
    "CorruptionDataModule",
    "CorruptionSuite",
    "Digits",
    "EpochSampler",
    "FashionMNIST",
    "HFDataset",
    "ImageFolder",
    "ImageNet",
    "ImageNetC",
    "Indexed",
    "MixedSampler",
    "RandomErasing",
    "ResumableLoader",
    "RobustDataModule",
    "SemiSupervised",
    "TimmRandAugment",
    "TinyImageNet",
    "TorchvisionData",
]
