"""Max-Mahalanobis centres: logits that are minus the squared distances between features and fixed centres."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_robust.losses import at_least_fp32
from lightning_robust.models.last_linear import last_linear


def max_mahalanobis_centres(num_classes: int, features: int, scale: float = 10.0) -> Tensor:
    """Return centres [k d] of length `scale` that are as far apart as k points on a sphere can be.

    They are the corners of a regular simplex: the inner product of any two is `-scale^2 / (k - 1)`. The i-th is zero in
    all features after the i-th, which makes them unique. Computed in float64.

    Args:
        num_classes: number of centres k, >= 2.
        features: length d of each, >= k - 1.
        scale: length of each, > 0.

    Raises:
        ValueError: for a number out of range.

    Example:
        >>> centres = max_mahalanobis_centres(num_classes=3, features=4, scale=1.0)
        >>> (centres @ centres.T).round(decimals=4)
        tensor([[ 1.0000, -0.5000, -0.5000],
                [-0.5000,  1.0000, -0.5000],
                [-0.5000, -0.5000,  1.0000]], dtype=torch.float64)

    Paper: Pang et al. 2020 (arXiv 1905.10626), "Rethinking softmax cross-entropy loss for adversarial robustness".
    Reference: P2333/Max-Mahalanobis-Training@8d3760a.
    """
    if num_classes < 2:
        raise ValueError(f"Max-Mahalanobis centres need two classes or more, got {num_classes}.")
    if features < num_classes - 1:
        raise ValueError(
            f"{num_classes} equidistant centres do not fit into {features} features: set features to "
            f"{num_classes - 1} or more."
        )
    if not scale > 0:
        raise ValueError(f"scale must be > 0, got {scale}.")
    below = torch.arange(num_classes - 1, 0, -1, dtype=torch.float64)  # how many rows stand below each diagonal entry
    diagonal = (num_classes * below / ((num_classes - 1) * (below + 1))).sqrt()
    corners = (-diagonal / below).expand(num_classes, -1).tril(-1)
    corners.diagonal().copy_(diagonal)
    return scale * F.pad(corners, (0, features - num_classes + 1))


class MaxMahalanobisLinear(nn.Linear):
    """Linear layer followed by minus the squared distances from fixed centres, `-|W x + b - mu_k|^2`.

    The centres are recomputed from the settings, and are in no checkpoint. They are subtracted in fp32 where the layer
    runs in half precision.

    Args:
        in_features: length of the inputs.
        num_classes: number of outputs k.
        scale: length of the centres, > 0.
        features: length d of the centres, >= k - 1.

    Raises:
        ValueError: for settings that no centres fit.
    """

    centres: Tensor

    def __init__(self, in_features: int, num_classes: int, scale: float = 10.0, features: int = 256) -> None:
        super().__init__(in_features, features)
        self.num_classes = num_classes
        self.scale = scale
        centres = max_mahalanobis_centres(num_classes, features, scale)
        self.register_buffer("centres", centres.to(self.weight), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [b k], <= 0, of inputs [b n]; on the way there are differences [b k d]."""
        features = at_least_fp32(super().forward(x))
        return -(features[:, None] - self.centres).square().sum(2)

    def extra_repr(self) -> str:
        """Return the sizes, as the printed net shows them."""
        return f"{self.in_features}, num_classes={self.num_classes}, scale={self.scale}, features={self.out_features}"


class MaxMahalanobis(nn.Module):
    """Net whose last linear layer is replaced by one whose logits are `-|f(x) - mu_k|^2`, with fixed centres mu_k.

    `lightning_robust.defenses.MMC` trains it to bring the features f(x) to the centre of their class. The softmax of
    these logits saturates: between classes they differ by up to `2 scale^2 k / (k - 1)`. Attacks on their
    cross-entropy therefore fail: attack such nets by `PGD(loss="label_logit")`, `PGD(loss="margin")` and AutoAttack.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k], with a linear layer at its end: the one that was registered
            last. Of nets with several heads it must be the one that gives the logits.
        scale: length of the centres, > 0 (C_MM in the authors' code).
        features: length d of features and centres, >= k - 1.

    Raises:
        ValueError: for a net without a linear layer, or settings that no centres fit.

    Example:
        >>> import torch
        >>> from lightning_robust.models import SmallConvNet
        >>> net = MaxMahalanobis(SmallConvNet(num_classes=10, in_channels=1), scale=10.0, features=64)
        >>> logits = net(torch.rand(2, 1, 8, 8))
        >>> logits.shape, bool((logits <= 0).all())
        (torch.Size([2, 10]), True)

    Paper: Pang et al. 2020 (arXiv 1905.10626), "Rethinking softmax cross-entropy loss for adversarial robustness".
    Reference: P2333/Max-Mahalanobis-Training@8d3760a, written for TensorFlow 1: no record of its steps is at hand, and
    the tests hold the formula to closed forms.
    """

    def __init__(self, net: nn.Module, scale: float = 10.0, features: int = 256) -> None:
        super().__init__()
        path, head = last_linear(net, type(self).__name__)
        layer = MaxMahalanobisLinear(head.in_features, head.out_features, scale, features)
        net.set_submodule(path, layer.to(head.weight))
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [b k], <= 0, of images [b c h w] in [0, 1]."""
        logits: Tensor = self.net(x)
        return logits
