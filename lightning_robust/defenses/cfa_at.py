"""CFA's form of adversarial training, with a radius for each class that follows how robust the net is on it."""

from typing import Any

from torch import nn

from lightning_robust.defenses.at import AT
from lightning_robust.defenses.class_calibration import ClassCalibration


class CFAAT(ClassCalibration, AT):
    """Trains on `CE(f(x'), y)` with x' within `eps_y = (lambda_1 + t_y) eps` from epoch `begin` on.

    t_y is the share of the class's training samples that were classified correctly under attack in the epoch before;
    until `begin` the radius is eps for all classes. See `CFA`, which is the same for TRADES.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        lambda_1: what t_y is raised by, >= 0.
        begin: first epoch, counting from 0, in which classes differ, >= 1.
        kwargs: settings of `AT`. The authors' attack runs with `attack_bn="train"` and one step size for all classes.

    Raises:
        ValueError: for settings out of range.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> from lightning_robust.types import Batch
        >>> model = CFAAT(SmallConvNet(), attack=PGD(steps=2))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Wei et al. 2023 (arXiv 2303.14460), equation 6.
    Reference: PKU-ML/CFA@071f333.
    Deviates: as `CFA` does.
    """

    def __init__(self, net: nn.Module, lambda_1: float = 0.5, begin: int = 10, **kwargs: Any) -> None:
        super().__init__(net, lambda_1=lambda_1, begin=begin, **kwargs)
