"""Losses of logits [b k] against a target, one value per sample [b]; attacks ascend them, defenses average them."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor


def cross_entropy(logits: Float[Tensor, "b k"], y: Integer[Tensor, "b"]) -> Float[Tensor, "b"]:
    """-log softmax(logits)_y."""
    return F.cross_entropy(at_least_fp32(logits), y.long(), reduction="none")


def margin(logits: Float[Tensor, "b k"], y: Integer[Tensor, "b"]) -> Float[Tensor, "b"]:
    """max over j != y of logits_j - logits_y: positive where the sample is misclassified.

    The loss of Carlini & Wagner 2017 (arXiv 1608.04644) without its floor.
    """
    logits, y = at_least_fp32(logits), y.long()[:, None]
    others = logits.scatter(1, y, -torch.inf)
    return others.amax(1) - logits.gather(1, y)[:, 0]


def dlr(logits: Float[Tensor, "b k"], y: Integer[Tensor, "b"]) -> Float[Tensor, "b"]:
    """Difference of logits ratio: the margin over the gap between the largest and the third largest logit.

    Invariant to shift and scale of the logits. With two classes, where there is no third, it is the margin.

    Paper: Croce & Hein 2020 (arXiv 2003.01690), equation 6.
    """
    logits = at_least_fp32(logits)
    top = logits.topk(min(3, logits.shape[1]), dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12) if top.shape[1] == 3 else margin(logits, y)


def targeted_dlr(
    logits: Float[Tensor, "b k"], y: Integer[Tensor, "b"], wanted: Integer[Tensor, "b"]
) -> Float[Tensor, "b"]:
    """logits_wanted - logits_y over the gap between the largest logit and the mean of the third and fourth largest.

    With three classes or fewer the difference is not divided: driving the third logit down would raise the ratio too.

    Paper: Croce & Hein 2020 (arXiv 2003.01690), equation 7.
    """
    logits = at_least_fp32(logits)
    gap = (logits.gather(1, wanted.long()[:, None]) - logits.gather(1, y.long()[:, None]))[:, 0]
    if logits.shape[1] < 4:
        return gap
    top = logits.topk(4, dim=1).values
    return gap / (top[:, 0] - top[:, 2:].mean(1) + 1e-12)


def runners_up(logits: Float[Tensor, "b k"], y: Integer[Tensor, "b"], n: int) -> Integer[Tensor, "b m"]:
    """The n classes (all, where there are fewer) with the highest logits besides y, the highest first."""
    others = logits.detach().scatter(1, y.long()[:, None], -torch.inf)
    return others.topk(min(n, logits.shape[1] - 1), dim=1).indices


def kl_divergence(logits: Float[Tensor, "b k"], reference: Float[Tensor, "b k"]) -> Float[Tensor, "b"]:
    """KL(softmax(reference) || softmax(logits)); gradients flow into both."""
    logits, reference = at_least_fp32(logits), at_least_fp32(reference)
    # p itself, not exp(log p): where p and q are close, the sign of the gradient q - p hangs on the last bit
    p = F.softmax(reference, dim=1)
    return (p * (F.log_softmax(reference, dim=1) - F.log_softmax(logits, dim=1))).sum(1)


def mean_logit(logits: Float[Tensor, "b k"], temperature: float = 1.0) -> Float[Tensor, "b"]:
    """sum_k p_k logits_k with p = softmax(logits / temperature) held constant; its input gradient is the mean of the
    classes' effective weights (arXiv 2210.05118).
    """
    return (F.softmax(logits / temperature, dim=1).detach() * logits).sum(1)


def boosted_cross_entropy(logits: Float[Tensor, "b k"], y: Integer[Tensor, "b"]) -> Float[Tensor, "b"]:
    """Cross-entropy plus -log(1 - p_j) of the most probable wrong class j.

    Paper: MART (Wang et al. 2020, ICLR), equation 10. The constants inside the logarithm are those of
    YisenWang/MART@2d83e17.
    """
    p = F.softmax(at_least_fp32(logits), dim=1)
    wrong = p.detach().scatter(1, y.long()[:, None], -1.0).argmax(1, keepdim=True)
    return cross_entropy(logits, y) - torch.log(1.0001 - p.gather(1, wrong)[:, 0] + 1e-12)


def symmetric_kl(a: Float[Tensor, "b k"], b: Float[Tensor, "b k"]) -> Float[Tensor, "b"]:
    """1/2 [KL(p_b || p_a) + KL(p_a || p_b)], where no gradient flows into the first argument of either KL.

    Paper: squeeze training (arXiv 2205.11156), as in qizhangli/ST-AT@82fc69f.
    """
    return 0.5 * (kl_divergence(a, b.detach()) + kl_divergence(b, a.detach()))


def js_divergence(a: Float[Tensor, "b k"], b: Float[Tensor, "b k"]) -> Float[Tensor, "b"]:
    """Jensen-Shannon divergence 1/2 KL(p_a || m) + 1/2 KL(p_b || m) with m = (p_a + p_b) / 2."""
    log_a = F.log_softmax(at_least_fp32(a), dim=1)
    log_b = F.log_softmax(at_least_fp32(b), dim=1)
    log_m = torch.logaddexp(log_a, log_b) - math.log(2)
    return 0.5 * (log_a.exp() * (log_a - log_m) + log_b.exp() * (log_b - log_m)).sum(1)


def squared_l2(a: Float[Tensor, "b k"], b: Float[Tensor, "b k"]) -> Float[Tensor, "b"]:
    """||p_a - p_b||_2^2 of the softmax probabilities."""
    return (F.softmax(at_least_fp32(a), dim=1) - F.softmax(at_least_fp32(b), dim=1)).square().sum(1)


def at_least_fp32(logits: Tensor) -> Tensor:
    """Half-precision logits as fp32; fp32 and fp64 as they are."""
    return logits if logits.dtype == torch.float64 else logits.float()
