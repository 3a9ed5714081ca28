"""Hypersphere embedding: logits that are cosines between normalised features and normalised weights."""

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_robust.models.last_linear import last_linear


class HypersphereLinear(nn.Linear):
    """Linear layer without bias whose outputs are `scale cos(x, w_k)`, the cosines of input and rows of the weight.

    Args:
        in_features: length of the inputs.
        out_features: number of outputs.
        scale: factor of the cosines, > 0 (the paper's s).
        in_place: set the rows of the weight to length 1 at each forward pass, as the authors' code does, instead of
            dividing by their lengths. The gradient is then that of a weight of any length: it is not orthogonal to the
            row, so a step also changes the row's length, until the next pass undoes it.

    Raises:
        ValueError: for a scale that is not > 0.
    """

    def __init__(self, in_features: int, out_features: int, scale: float = 10.0, in_place: bool = False) -> None:
        super().__init__(in_features, out_features, bias=False)
        if not scale > 0:
            raise ValueError(f"scale must be > 0, got {scale}.")
        self.scale = scale
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled cosines [b k] of features [b d]."""
        if self.in_place:
            self.weight.data = F.normalize(self.weight.data, dim=1)
        weight = self.weight if self.in_place else F.normalize(self.weight, dim=1)
        return self.scale * F.linear(F.normalize(x, dim=1), weight)


class Hypersphere(nn.Module):
    """Net whose last linear layer is replaced by one that gives cosines, `scale cos(features, w_k)`.

    With `logit_margin` of AT, TRADES, ALP or ST it makes hypersphere embedding of them.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k], with a linear layer at its end: the one that was registered
            last. Of nets with several heads it must be the one that gives the logits.
        scale: factor of the cosines, > 0 (the paper's s).
        in_place: how the weights are normalised, see `HypersphereLinear`.

    Raises:
        ValueError: for a net without a linear layer, or a scale that is not > 0.

    Example:
        >>> import torch
        >>> from lightning_robust.models import SmallConvNet
        >>> net = Hypersphere(SmallConvNet(num_classes=10, in_channels=1), scale=10.0)
        >>> bool((net(torch.rand(2, 1, 8, 8)).abs() <= 10).all())
        True

    Paper: Pang et al. 2020 (arXiv 2002.08619), "Boosting adversarial training with hypersphere embedding", equation 5.
    Reference: ShawnXYang/AT_HE@dad6a41; with `in_place=True` its step is met to rounding.
    Deviates: by default the gradient of a weight is orthogonal to it; on the recorded steps of tests/golden its part
    along the weight, which is left out, has 48 % to 60 % of the length.
    """

    def __init__(self, net: nn.Module, scale: float = 10.0, in_place: bool = False) -> None:
        super().__init__()
        path, head = last_linear(net, type(self).__name__)
        net.set_submodule(path, HypersphereLinear(head.in_features, head.out_features, scale, in_place))
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled cosines [b k] of images [b c h w] in [0, 1]."""
        logits: Tensor = self.net(x)
        return logits
