"""Distances of a softmax from another one or from a label, by the names under which a configuration chooses them."""

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lightning_robust.losses import Labels, at_least_fp32, js_divergence, kl_divergence, l1_distance, squared_l2
from lightning_robust.types import Objective
from lightning_robust.utils.labels import smoothed

DistanceName: TypeAlias = Literal[
    "l2_squared", "l2", "l1", "l1_squared", "kl", "kl_root", "reverse_kl_root", "js", "js_root"
]
"""The nine distances that SCORE's authors compare, see `Distance`."""


class Distance:
    """A distance D(p, q) of the probabilities p = softmax(logits) from a reference q, one value per sample.

    The reference is the softmax of other logits, or a label. Where p equals q the gradient is 0, of square roots too.

    Args:
        name: "l2_squared" is `sum_k (p_k - q_k)^2`, "l2" its root; "l1" is `sum_k abs(p_k - q_k)`, "l1_squared" its
            square; "kl" is `KL(q || p) = sum_k q_k log(q_k / p_k)`, which of a hard label is the cross-entropy, and
            "kl_root" its root; "reverse_kl_root" is `sqrt(KL(p || q))`, which is infinite for a label that gives a
            class no probability; "js" is `1/2 KL(q || m) + 1/2 KL(p || m)` with `m = (p + q) / 2`, "js_root" its root.

    Raises:
        ValueError: for another name.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0]])
        >>> Distance("l1")(logits, logits_of_labels(torch.tensor([1]), logits))
        tensor([1.])
        >>> Distance("kl_root")(logits, torch.tensor([[0.0, 1.0]]))
        tensor([0.3331])

    Paper: Pang et al. 2022 (arXiv 2202.10103), section 5.
    Reference: P2333/SCORE@e82f442 (without_DDPM), which names them LSE, 2, 1, L1square, KL, KLsqrt, RKLsqrt, JS and
    JSsqrt.
    """

    def __init__(self, name: DistanceName) -> None:
        if name not in _DISTANCES:
            raise ValueError(f"Unknown distance {name!r}: choose from {', '.join(get_args(DistanceName))}.")
        self.name = name
        self.ascended, self._power = _DISTANCES[name]
        """What an attack raises: the distance without its root or square, which are largest where it is."""

    def __call__(self, logits: Tensor, reference: Tensor) -> Tensor:
        """Return the distance [b] of softmax(logits) from softmax(reference).

        Args:
            logits: logits [b k]; half precision is computed in fp32.
            reference: logits [b k] of the reference; those of a label are `logits_of_labels`.
        """
        value = self.ascended(logits, reference)
        if self._power == 0.5:  # the root of 0 has an infinite slope, and rounding may lead below 0
            apart = value > 0
            return torch.where(apart, value, 1).sqrt() * apart
        return value.square() if self._power == 2 else value

    def ascended_of_labels(self, logits: Tensor, y: Labels) -> Tensor:
        """Return `ascended` of the distance from labels [b] or [b k]."""
        return self.ascended(logits, logits_of_labels(y, logits))


def logits_of_labels(y: Labels, like: Tensor) -> Tensor:
    """Return logits [b k] whose softmax is the label: the logarithms of its probabilities.

    Args:
        y: labels [b] or [b k].
        like: logits [b k], whose number of classes and type they take, fp32 for half precision.

    Example:
        >>> logits_of_labels(torch.tensor([1]), torch.zeros(1, 3))
        tensor([[-inf, 0., -inf]])
    """
    like = at_least_fp32(like)
    return smoothed(y, like.shape[1], 0.0, like).to(like).log()


def _reverse_kl(logits: Tensor, reference: Tensor) -> Tensor:
    return kl_divergence(reference, logits)


_DISTANCES: dict[str, tuple[Objective, float]] = {
    "l2_squared": (squared_l2, 1),
    "l2": (squared_l2, 0.5),
    "l1": (l1_distance, 1),
    "l1_squared": (l1_distance, 2),
    "kl": (kl_divergence, 1),
    "kl_root": (kl_divergence, 0.5),
    "reverse_kl_root": (_reverse_kl, 0.5),
    "js": (js_divergence, 1),
    "js_root": (js_divergence, 0.5),
}
