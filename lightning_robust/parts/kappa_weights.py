"""Weights of GAIRAT: the fewer steps an attack needs to mislead the net on a sample, the more it weighs."""

from typing import Literal

import torch
from torch import Tensor

from lightning_robust.losses import at_least_fp32
from lightning_robust.parts.reweighting import Reweighting
from lightning_robust.runtime.ranks import world_size
from lightning_robust.types import Watch
from lightning_robust.utils.labels import hard_labels


class KappaWeights(Reweighting):
    """Weights of GAIRAT: the fewer points of the attack the net classifies correctly, the more the sample weighs.

    Of the K points at which the attack takes a gradient, from its start on, kappa are classified correctly. With
    `z = shift + 5 (1 - kappa / floor(K / 2))` the weight is

        tanh:      (tanh(z) + 1) / 2
        sigmoid:   1 / (1 + exp(-z))
        discrete:  (K + 1 - kappa) / (K + 1)

    over its mean in the batch, on all devices together. Where a step attacks several times, the last attack counts.

    Args:
        shift: the paper's lambda; the larger, the more alike the weights of samples that the net errs on.
        function: "tanh", "sigmoid" or "discrete".
        start_epoch: epoch, counting from 0, before which all samples weigh 1.

    Raises:
        ValueError: for an unknown function; in a step, for a method whose attack it cannot watch.

    Example:
        >>> weights, y = KappaWeights(start_epoch=0), torch.tensor([0, 0])
        >>> watch = weights.watch(y)
        >>> for logits in ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]):  # the first sample withstands
        ...     watch(torch.tensor(logits))
        >>> [round(weight, 4) for weight in weights(torch.tensor(logits), y, epoch=0).tolist()]
        [0.0, 2.0]

    Paper: Zhang et al. 2021 (arXiv 2010.01736), "Geometry-aware instance-reweighted adversarial training", equation 6.
    Reference: zjfheart/Geometry-aware-Instance-reweighted-Adversarial-Training@16813b5, which rounds K / 2 down where
    the paper does not.
    Deviates: none known; kappa and the weights are the reference's to rounding.
    """

    def __init__(
        self, shift: float = -1.0, function: Literal["tanh", "sigmoid", "discrete"] = "tanh", start_epoch: int = 59
    ) -> None:
        if function not in ("tanh", "sigmoid", "discrete"):
            raise ValueError(f"Unknown function {function!r}: choose tanh, sigmoid or discrete.")
        self.shift = shift
        self.function = function
        self.start_epoch = start_epoch
        self._kappa: Tensor | None = None
        self._points = 0

    def watch(self, y: Tensor) -> Watch:
        """Return what counts, for the samples with these labels, the points that are classified correctly."""
        label = hard_labels(y)
        kappa = self._kappa = torch.zeros_like(label)
        self._points = 0

        def count(logits: Tensor) -> None:
            kappa.add_(logits.argmax(1) == label)
            self._points += 1

        return count

    def __call__(self, logits_adv: Tensor, y: Tensor, epoch: int) -> Tensor:
        """Return weights [b] whose mean in the batch is 1, or ones before `start_epoch`."""
        if self._kappa is None or len(self._kappa) != len(y) or not self._points:
            raise ValueError(
                "KappaWeights count how often the net is right on the way of the training attack, but saw none of it: "
                "use a method that trains on PGD examples of at least one step (AT, TRADES, MART), or MarginWeights."
            )
        if epoch < self.start_epoch:
            return torch.ones(len(y), device=y.device)
        kappa = self._kappa.to(at_least_fp32(logits_adv))
        z = self.shift + 5 * (1 - kappa / max(self._points // 2, 0.5))
        if self.function == "discrete":
            weights = (self._points + 1 - kappa) / (self._points + 1)
        else:
            weights = torch.sigmoid(2 * z if self.function == "tanh" else z)  # (tanh(z) + 1) / 2, without cancellation
        total = torch.stack([weights.sum(), weights.new_full((), len(weights))])
        if world_size() > 1:
            torch.distributed.all_reduce(total)
        return weights * (total[1] / total[0])
