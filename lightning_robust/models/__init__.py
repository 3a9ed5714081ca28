"""Classification nets that take images in [0, 1] and return logits."""

from lightning_robust.models.by_name import load_net
from lightning_robust.models.feature_denoising import FeatureDenoising
from lightning_robust.models.feed_forward_net import FeedForwardNet
from lightning_robust.models.huggingface_model import HuggingFaceModel
from lightning_robust.models.hypersphere import Hypersphere
from lightning_robust.models.iaat_wide_resnet import IAATWideResNet
from lightning_robust.models.max_mahalanobis import MaxMahalanobis
from lightning_robust.models.normalize import Normalize, normalized
from lightning_robust.models.preact_resnet import PreActResNet
from lightning_robust.models.pretrained import Pretrained, from_pretrained, load_weights
from lightning_robust.models.robustbench import RobustBenchModel
from lightning_robust.models.small import SmallConvNet
from lightning_robust.models.strided_conv_net import StridedConvNet
from lightning_robust.models.timm_model import TimmModel
from lightning_robust.models.torchvision_model import TorchvisionModel
from lightning_robust.models.wide_resnet import WideResNet

__all__ = [
    "FeatureDenoising",
    "FeedForwardNet",
    "HuggingFaceModel",
    "Hypersphere",
    "IAATWideResNet",
    "MaxMahalanobis",
    "Normalize",
    "PreActResNet",
    "Pretrained",
    "RobustBenchModel",
    "SmallConvNet",
    "StridedConvNet",
    "TimmModel",
    "TorchvisionModel",
    "WideResNet",
    "from_pretrained",
    "load_net",
    "load_weights",
    "normalized",
]
