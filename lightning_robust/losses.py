"""Losses of logits, one value per sample: attacks maximise them, defenses average them.

Labels are class numbers [b], or soft labels [b k], which give every class a probability; losses that compare the label
with the other classes take the most probable one. A class whose logit is -inf is masked: values and gradients are those
of a net without that class.
"""

import math
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from lightning_robust.utils.labels import hard_labels, is_soft

Labels: TypeAlias = Integer[Tensor, "b"] | Float[Tensor, "b k"]
"""Class numbers [b], or the probability of each class [b k]."""


def cross_entropy(logits: Float[Tensor, "b k"], y: Labels) -> Float[Tensor, "b"]:
    """Return the cross-entropy `-log softmax(logits)_y` of each sample; of soft labels, `-sum_k y_k log softmax_k`.

    Args:
        logits: logits [b k]; half precision is computed in fp32.
        y: labels [b] or [b k].

    Returns:
        Values [b], >= 0.

    Example:
        >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor([0.6931])
        >>> cross_entropy(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.5]]))
        tensor([0.8133])
    """
    if not is_soft(y):
        return F.cross_entropy(at_least_fp32(logits), y.long(), reduction="none")
    log_p = F.log_softmax(at_least_fp32(logits), dim=1)
    return -(y.to(log_p) * log_p.masked_fill(y == 0, 0)).sum(1)  # a masked class counts only if the label has it


def label_logit(logits: Float[Tensor, "b k"], y: Labels) -> Float[Tensor, "b"]:
    """Return minus the label's logit, `-logits_y`, of each sample; of soft labels, `-sum_k y_k logits_k`.

    It suits nets whose logits mean something one by one, such as minus the squared distances of `MaxMahalanobis`. Of
    others it says little: a shift of all logits changes it, but no probability.

    Args:
        logits: logits [b k]; half precision is computed in fp32.
        y: labels [b] or [b k].

    Returns:
        Values [b].

    Example:
        >>> label_logit(torch.tensor([[-4.0, -1.0], [-4.0, -1.0]]), torch.tensor([0, 1]))
        tensor([4., 1.])
        >>> label_logit(torch.tensor([[-4.0, -1.0]]), torch.tensor([[0.5, 0.5]]))
        tensor([2.5000])

    Paper: Pang et al. 2020 (arXiv 1905.10626), "Rethinking softmax cross-entropy loss for adversarial robustness".
    """
    logits = at_least_fp32(logits)
    if not is_soft(y):
        return -logits.gather(1, y.long()[:, None])[:, 0]
    return -(y.to(logits) * logits.masked_fill(y == 0, 0)).sum(1)  # a masked class counts only if the label has it


def margin(logits: Float[Tensor, "b k"], y: Labels) -> Float[Tensor, "b"]:
    """Return the largest other logit minus the label's, `max_{j != y} logits_j - logits_y`, of each sample.

    Args:
        logits: logits [b k]; half precision is computed in fp32.
        y: labels [b] or [b k].

    Returns:
        Values [b], positive where the sample is misclassified.

    Example:
        >>> margin(torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]), torch.tensor([0, 1]))
        tensor([-1.,  2.])

    Paper: Carlini & Wagner 2017 (arXiv 1608.04644), without the floor of its loss.
    """
    logits = at_least_fp32(logits)
    label = hard_labels(y)[:, None]
    others = logits.scatter(1, label, -torch.inf)
    return others.amax(1) - logits.gather(1, label)[:, 0]


def probability_margin(logits: Float[Tensor, "b k"], y: Labels) -> Float[Tensor, "b"]:
    """Return the largest other probability minus the label's, `max_{j != y} p_j - p_y`, of each sample.

    Args:
        logits: logits [b k]; half precision is computed in fp32.
        y: labels [b], or [b k], of which the most probable class counts.

    Returns:
        Values [b] in [-1, 1], positive where the sample is misclassified.

    Example:
        >>> probability_margin(torch.tensor([[0.0, 0.0], [0.0, 99.0]]), torch.tensor([0, 0]))
        tensor([0., 1.])

    Paper: Liu et al. 2021 (arXiv 2106.07904), section 3.2, for weights of samples.
    Reference: xieyong0/PMA@c386acd, as an attack's objective.
    """
    p = torch.softmax(at_least_fp32(logits), dim=1)
    label = hard_labels(y)[:, None]
    return p.scatter(1, label, -1.0).amax(1) - p.gather(1, label)[:, 0]


def soft_margin(logits: Float[Tensor, "b k"], y: Labels) -> Float[Tensor, "b"]:
    """Return the soft margin `log sum_{j != y} exp(logits_j) - logits_y` of each sample.

    It is at least the margin, and negative where the label has more than half of the probability.

    Args:
        logits: logits [b k]; half precision is computed in fp32.
        y: labels [b] or [b k].

    Returns:
        Values [b].

    Example:
        >>> soft_margin(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -torch.inf]]), torch.tensor([0, 1]))
        tensor([-0.3069,  0.0000])

    Paper: Ding et al. 2020 (arXiv 1812.02637), equation 9.
    """
    logits = at_least_fp32(logits)
    label = hard_labels(y)[:, None]
    return logits.scatter(1, label, -torch.inf).logsumexp(1) - logits.gather(1, label)[:, 0]


def dlr(logits: Float[Tensor, "b k"], y: Labels) -> Float[Tensor, "b"]:
    """Return the difference of logits ratio: the margin over the gap between the largest and third largest logit.

    It does not change if the logits are shifted or scaled. With two classes (that are not masked), which have no third
    logit, it is the margin itself.

    Args:
        logits: logits [b k]; half precision is computed in fp32.
        y: labels [b] or [b k].

    Returns:
        Values [b], positive where the sample is misclassified.

    Example:
        >>> dlr(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
        tensor([-0.5000])

    Paper: Croce & Hein 2020 (arXiv 2003.01690), equation 6.
    """
    logits = at_least_fp32(logits)
    if logits.shape[1] < 3:
        return margin(logits, y)
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / _gap(top[:, 0], top[:, 2])


def targeted_dlr(logits: Float[Tensor, "b k"], y: Labels, wanted: Integer[Tensor, "b"]) -> Float[Tensor, "b"]:
    """Return the targeted difference of logits ratio, which grows towards another class than the label.

    It is `logits_wanted - logits_y` over the gap between the largest logit and the mean of the third and fourth
    largest. With three classes or fewer (that are not masked) the difference is not divided: lowering the third logit
    would raise the ratio too.

    Args:
        logits: logits [b k]; half precision is computed in fp32.
        y: labels [b] or [b k].
        wanted: classes [b] to reach.

    Returns:
        Values [b].

    Example:
        >>> targeted_dlr(torch.tensor([[4.0, 3.0, 2.0, 0.0]]), torch.tensor([0]), torch.tensor([1]))
        tensor([-0.3333])

    Paper: Croce & Hein 2020 (arXiv 2003.01690), equation 7.
    """
    logits = at_least_fp32(logits)
    gap = (logits.gather(1, wanted.long()[:, None]) - logits.gather(1, hard_labels(y)[:, None]))[:, 0]
    if logits.shape[1] < 4:
        return gap
    top = logits.topk(4, dim=1).values
    return gap / _gap(top[:, 0], top[:, 2:].mean(1))


def runners_up(logits: Float[Tensor, "b k"], y: Labels, n: int) -> Integer[Tensor, "b m"]:
    """Return the classes with the highest logits other than the label.

    Masked classes are left out as long as there are others: a sample with fewer than n repeats its first one.

    Args:
        logits: logits [b k].
        y: labels [b] or [b k].
        n: how many classes, >= 1.

    Returns:
        Classes [b m], the highest first, where m is the smaller of n and k - 1.

    Example:
        >>> runners_up(torch.tensor([[4.0, 3.0, 2.0, 0.0]]), torch.tensor([1]), n=2)
        tensor([[0, 2]])
        >>> runners_up(torch.tensor([[4.0, 3.0, 2.0, -torch.inf]]), torch.tensor([1]), n=3)
        tensor([[0, 2, 0]])
    """
    masked = torch.finfo(logits.dtype).min
    others = logits.detach().clamp_min(masked).scatter(1, hard_labels(y)[:, None], -torch.inf)  # the label comes last
    highest, classes = others.topk(min(n, logits.shape[1] - 1), dim=1)
    return torch.where(highest > masked, classes, classes[:, :1])


def distinct(classes: Integer[Tensor, "b m"]) -> Integer[Tensor, "b"]:
    """Return how many classes `runners_up` found for each sample, before it repeated the first.

    Example:
        >>> distinct(torch.tensor([[0, 2], [0, 0]]))
        tensor([2, 1])
    """
    return 1 + (classes[:, 1:] != classes[:, :1]).sum(1)


def kl_divergence(logits: Float[Tensor, "b k"], reference: Float[Tensor, "b k"]) -> Float[Tensor, "b"]:
    """Return the Kullback-Leibler divergence `KL(softmax(reference) || softmax(logits))` of each sample.

    Gradients flow into both arguments.

    Args:
        logits: logits [b k]; half precision is computed in fp32.
        reference: logits [b k] of the first distribution; likewise.

    Returns:
        Values [b], >= 0.

    Example:
        >>> kl_divergence(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 0.0]]))
        tensor([0.1201])
    """
    logits = at_least_fp32(logits)
    reference = at_least_fp32(reference)
    # p itself, not exp(log p): where p and q are close, the last bit decides the sign of the gradient q - p
    p = F.softmax(reference, dim=1)
    ratio = F.log_softmax(reference, dim=1) - F.log_softmax(logits, dim=1)
    return (p * ratio.masked_fill(reference.isneginf(), 0)).sum(1)


def mean_logit(logits: Float[Tensor, "b k"], temperature: float = 1.0) -> Float[Tensor, "b"]:
    """Return the mean logit `sum_k p_k logits_k` under `p = softmax(logits / temperature)`, held constant.

    Its gradient with respect to the input is the mean of the classes' effective weights.

    Args:
        logits: logits [b k].
        temperature: temperature of the softmax, > 0.

    Returns:
        Values [b].

    Example:
        >>> mean_logit(torch.tensor([[1.0, 1.0]]))
        tensor([1.])

    Paper: effective margin regularization (arXiv 2210.05118).
    """
    return (F.softmax(logits / temperature, dim=1).detach() * logits.masked_fill(logits.isneginf(), 0)).sum(1)


def boosted_cross_entropy(logits: Float[Tensor, "b k"], y: Labels) -> Float[Tensor, "b"]:
    """Return MART's boosted cross-entropy: cross-entropy plus `-log(1 - p_j)` of the most probable wrong class j.

    Args:
        logits: logits [b k]; half precision is computed in fp32.
        y: labels [b] or [b k].

    Returns:
        Values [b].

    Example:
        >>> boosted_cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor([1.3861])

    Paper: MART (Wang et al. 2020, ICLR), equation 10.
    Reference: YisenWang/MART@2d83e17, including the constants inside the logarithm.
    """
    p = F.softmax(at_least_fp32(logits), dim=1)
    wrong = p.detach().scatter(1, hard_labels(y)[:, None], -1.0).argmax(1, keepdim=True)
    return cross_entropy(logits, y) - torch.log(1.0001 - p.gather(1, wrong)[:, 0] + 1e-12)


def symmetric_kl(a: Float[Tensor, "b k"], b: Float[Tensor, "b k"]) -> Float[Tensor, "b"]:
    """Return the symmetric KL divergence `1/2 [KL(p_b || p_a) + KL(p_a || p_b)]` of each sample.

    No gradient flows into the first argument of either divergence. Since `log p` and the logits differ by a constant
    alone, the value is `1/2 sum (p_a - p_b) (a - b)`, and with `p_a - p_b` held constant so are its gradients: without
    logarithms, they are exact where the two are close and fp32 would decide their sign by rounding.

    Args:
        a: logits [b k]; half precision is computed in fp32.
        b: logits [b k]; likewise.

    Returns:
        Values [b], >= 0.

    Example:
        >>> symmetric_kl(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 0.0]]))
        tensor([0.1155])

    Paper: squeeze training (arXiv 2205.11156).
    Reference: qizhangli/ST-AT@82fc69f.
    """
    a, b = at_least_fp32(a), at_least_fp32(b)
    difference = (F.softmax(a, dim=1) - F.softmax(b, dim=1)).detach()
    return 0.5 * (difference * (a - b).masked_fill(difference == 0, 0)).sum(1)


def js_divergence(a: Float[Tensor, "b k"], b: Float[Tensor, "b k"]) -> Float[Tensor, "b"]:
    """Return the Jensen-Shannon divergence `1/2 [KL(p_a || m) + KL(p_b || m)]` with `m = (p_a + p_b) / 2`.

    Args:
        a: logits [b k]; half precision is computed in fp32.
        b: logits [b k]; likewise.

    Returns:
        Values [b] in [0, log 2].

    Example:
        >>> js_divergence(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 0.0]]))
        tensor([0.0285])
    """
    # where its exponential is 0 anyway, a logarithm is kept finite
    log_a = F.log_softmax(at_least_fp32(a), dim=1).clamp_min(-1e4)
    log_b = F.log_softmax(at_least_fp32(b), dim=1).clamp_min(-1e4)
    log_m = torch.logaddexp(log_a, log_b) - math.log(2)
    return 0.5 * (log_a.exp() * (log_a - log_m) + log_b.exp() * (log_b - log_m)).sum(1)


def squared_l2(a: Float[Tensor, "b k"], b: Float[Tensor, "b k"]) -> Float[Tensor, "b"]:
    """Return the squared l2 distance `||p_a - p_b||_2^2` between the softmax probabilities.

    Args:
        a: logits [b k]; half precision is computed in fp32.
        b: logits [b k]; likewise.

    Returns:
        Values [b] in [0, 2].

    Example:
        >>> squared_l2(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 0.0]]))
        tensor([0.1068])
    """
    return (F.softmax(at_least_fp32(a), dim=1) - F.softmax(at_least_fp32(b), dim=1)).square().sum(1)


def l1_distance(a: Float[Tensor, "b k"], b: Float[Tensor, "b k"]) -> Float[Tensor, "b"]:
    """Return the l1 distance `||p_a - p_b||_1` between the softmax probabilities, twice their total variation.

    Args:
        a: logits [b k]; half precision is computed in fp32.
        b: logits [b k]; likewise.

    Returns:
        Values [b] in [0, 2].

    Example:
        >>> l1_distance(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 0.0]]))
        tensor([0.4621])
    """
    return (F.softmax(at_least_fp32(a), dim=1) - F.softmax(at_least_fp32(b), dim=1)).abs().sum(1)


def logit_distance(a: Float[Tensor, "b k"], b: Float[Tensor, "b k"]) -> Float[Tensor, "b"]:
    """Return the mean over the classes of the squared difference of two logits, `mean_k (a_k - b_k)^2`.

    Args:
        a: logits [b k]; half precision is computed in fp32.
        b: logits [b k]; likewise.

    Returns:
        Values [b], >= 0.

    Example:
        >>> logit_distance(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 3.0]]))
        tensor([2.])
    """
    masked = a.isneginf()
    a, b = (at_least_fp32(z).masked_fill(masked, 0) for z in (a, b))
    return (a - b).square().sum(1) / (~masked).sum(1)


def at_least_fp32(logits: Tensor) -> Tensor:
    """Convert logits in half precision to fp32; fp32 and fp64 stay as they are.

    Example:
        >>> at_least_fp32(torch.zeros(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return logits if logits.dtype == torch.float64 else logits.float()


def _gap(high: Tensor, low: Tensor) -> Tensor:
    """Return `high - low` kept from 0, or 1 where the low logit is a masked class's."""
    return (high - low + 1e-12).masked_fill(low.isneginf(), 1)
