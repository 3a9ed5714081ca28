"""WEISSI: a penalty on weights that rescaling one layer against another leaves alone."""

import torch
from torch import Tensor, nn

from lightning_robust.parts.regularizers import Regularizer
from lightning_robust.types import Batch, Views


class LogWeightNorms(Regularizer):
    """WEISSI regularization: the logarithm of the product of the layers' weight norms.

    The penalty is `weight sum_l log ||W_l||_2`, the same for each sample, over the weights of at least two dimensions
    (linear layers and convolutions) that train, with the l2 norm of all entries. Multiplying one layer by a number and
    dividing another by it changes neither a net of ReLUs nor this penalty, but does change weight decay.

    Args:
        weight: weight of the penalty, >= 0 (the paper's lambda, whose value is not known).

    Raises:
        ValueError: for a negative weight, or a net without such weights.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2))
        >>> batch = Batch(torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1]))
        >>> before = LogWeightNorms(0.1)(net, batch, Views(batch.x), epoch=0)
        >>> with torch.no_grad():
        ...     _ = net[1].weight.mul_(4), net[3].weight.div_(4)
        >>> torch.allclose(LogWeightNorms(0.1)(net, batch, Views(batch.x), epoch=0), before)
        True

    Paper: Liu, Cui & Chan 2020 (arXiv 2008.02965), "Improve generalization and robustness of neural networks via weight
    scale shifting invariant regularizations". No code of the authors was found.
    """

    name = "log_weight_norms"

    def __init__(self, weight: float = 1e-3) -> None:
        if weight < 0:
            raise ValueError(f"weight must be >= 0, got {weight}.")
        self.weight = weight

    def __call__(self, net: nn.Module, batch: Batch, views: Views, epoch: int) -> Tensor:
        """Return the weighted penalty [b], the same for each sample."""
        weights = [parameter for parameter in net.parameters() if parameter.dim() > 1 and parameter.requires_grad]
        if not weights:
            raise ValueError(f"{type(net).__name__} has no weights of two dimensions or more that train.")
        total = torch.stack([w.norm().log() for w in weights]).sum()
        return self.weight * total.expand(len(batch.x))
