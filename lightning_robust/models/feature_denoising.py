"""Feature denoising: blocks between a net's stages that average features over similar places of the image."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class DenoisingBlock(nn.Module):
    """Adds a non-local mean of the features to them, `z + BN(W mean(z))`, where BN starts with weight 0.

    The mean at place i is `sum_j a_ij z_j` over all places j, with the weights `a_i = softmax_j(q_i . k_j / sqrt(d))`
    of two 1x1 convolutions to half the channels, `q = theta(z)` and `k = phi(z)`.

    Args:
        channels: number of channels c, >= 2.

    Raises:
        ValueError: for fewer than two channels.

    Example:
        >>> import torch
        >>> z = torch.rand(2, 8, 4, 4)
        >>> torch.equal(DenoisingBlock(8)(z), z)  # as long as it is not trained
        True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 2:
            raise ValueError(f"A denoising block halves the channels, so it takes two or more, got {channels}.")
        self.theta = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.phi = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        for embedding in (self.theta, self.phi):
            nn.init.normal_(embedding.weight, std=0.01)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        nn.init.zeros_(self.norm.weight)

    def forward(self, z: Tensor) -> Tensor:
        """Return the denoised features [b c h w] of features [b c h w]; the weights of the mean are [b hw hw]."""
        denoised: Tensor = z + self.norm(self.conv(self.non_local_mean(z)))
        return denoised

    def non_local_mean(self, z: Tensor) -> Tensor:
        """Return the weighted means [b c h w] of features [b c h w] over all places."""
        query, key, value = (part.flatten(2).transpose(1, 2)[:, None] for part in (self.theta(z), self.phi(z), z))
        mean = F.scaled_dot_product_attention(query, key, value)  # [b 1 hw c]
        return mean[:, 0].transpose(1, 2).reshape(z.shape)


class FeatureDenoising(nn.Module):
    """Net with a denoising block after each of its stages.

    At first it gives the logits of the net without the blocks. Training it is any defense's; the paper's is adversarial
    training towards random classes (`imagenet/at_denoise`).

    Args:
        net: images [b c h w] in [0, 1] to logits [b k], made of stages that give features [b c h w].
        stages: names of the stages; by default those of the ResNets of torchvision and timm. A name counts wherever it
            stands in the net. The last convolution inside tells how many channels a stage gives.

    Raises:
        ValueError: for a stage that the net does not have, has several times, or that holds no convolution.

    Example:
        >>> import torch
        >>> from lightning_robust.models import TorchvisionModel
        >>> net = FeatureDenoising(TorchvisionModel("resnet18", num_classes=10, small_images=True))
        >>> net(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])

    Paper: Xie et al. 2019 (arXiv 1812.03411), "Feature denoising for improving adversarial robustness", section 4.
    Reference: facebookresearch/ImageNet-Adversarial-Training@1ad68f0, written for TensorFlow 1: no record of its steps
    is at hand, and the tests hold the block to its formula.
    """

    def __init__(self, net: nn.Module, stages: Sequence[str] = ("layer1", "layer2", "layer3", "layer4")) -> None:
        super().__init__()
        for stage in stages:
            paths = [path for path, _ in net.named_modules() if f".{path}".endswith(f".{stage}")]
            if len(paths) != 1:
                raise ValueError(
                    f"The stage {stage!r} stands {len(paths)} times in {type(net).__name__}: set stages to names that "
                    f"it has once, such as {', '.join(name for name, _ in net.named_children())}."
                )
            module = net.get_submodule(paths[0])
            convolutions = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
            if not convolutions:
                raise ValueError(f"The stage {stage!r} of {type(net).__name__} holds no convolution: set other stages.")
            weight = convolutions[-1].weight
            net.set_submodule(paths[0], nn.Sequential(module, DenoisingBlock(len(weight)).to(weight)))
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [b k] of images [b c h w] in [0, 1]."""
        logits: Tensor = self.net(x)
        return logits
