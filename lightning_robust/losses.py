"""Losses of logits [b k] against a target, one value per sample [b]; attacks ascend them, defenses average them."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor


def cross_entropy(logits: Float[Tensor, "b k"], y: Integer[Tensor, "b"]) -> Float[Tensor, "b"]:
    """-log softmax(logits)_y."""
    return F.cross_entropy(_at_least_fp32(logits), y.long(), reduction="none")


def margin(logits: Float[Tensor, "b k"], y: Integer[Tensor, "b"]) -> Float[Tensor, "b"]:
    """max over j != y of logits_j - logits_y: positive where the sample is misclassified.

    The loss of Carlini & Wagner 2017 (arXiv 1608.04644) without its floor.
    """
    logits, y = _at_least_fp32(logits), y.long()[:, None]
    others = logits.scatter(1, y, -torch.inf)
    return others.amax(1) - logits.gather(1, y)[:, 0]


def kl_divergence(logits: Float[Tensor, "b k"], reference: Float[Tensor, "b k"]) -> Float[Tensor, "b"]:
    """KL(softmax(reference) || softmax(logits)); gradients flow into both."""
    log_p = F.log_softmax(_at_least_fp32(reference), dim=1)
    log_q = F.log_softmax(_at_least_fp32(logits), dim=1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def _at_least_fp32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
