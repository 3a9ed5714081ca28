"""Running statistics of batch norms, measured anew."""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from lightning_robust.utils.private_apis import BatchNorm


def measure_statistics(net: nn.Module, images: Iterable[Tensor]) -> None:
    """Set the running statistics of all batch norms to their mean over batches, as torch's `update_bn` does.

    The net runs in training mode, without gradients. Its modes and the batch norms' momentum are left as they were,
    also by an exception.

    Args:
        net: images to logits.
        images: batches of images [b c h w].

    Example:
        >>> import torch
        >>> norm = nn.BatchNorm2d(1).eval()
        >>> measure_statistics(norm, [torch.ones(2, 1, 2, 2), 2 * torch.ones(2, 1, 2, 2)])
        >>> norm.running_mean, norm.training, norm.momentum
        (tensor([1.5000]), False, 0.1)
    """
    modes = [(module, module.training) for module in net.modules()]
    momenta = [(module, module.momentum) for module in net.modules() if isinstance(module, BatchNorm)]
    try:
        update_bn(images, net)
    finally:
        for module, training in modes:
            module.training = training
        for norm, momentum in momenta:
            norm.momentum = momentum
