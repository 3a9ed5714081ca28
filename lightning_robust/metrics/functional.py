"""Pure functions of tensors that the metrics are made of."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_robust.losses import Labels, mean_logit, runners_up
from lightning_robust.metrics.settings import counted
from lightning_robust.runtime.gradients import detached, input_gradient
from lightning_robust.runtime.modes import attack_mode
from lightning_robust.runtime.outputs import LogitsNet
from lightning_robust.types import Net
from lightning_robust.utils.labels import hard_labels


def is_correct(logits: Float[Tensor, "b k"], y: Labels) -> Bool[Tensor, "b"]:
    """Return whether the largest logit is the label's.

    Args:
        logits: logits [b k].
        y: labels [b], or soft labels [b k], of which the most probable class counts.

    Returns:
        A mask [b].

    Raises:
        ValueError: for labels of another shape.

    Example:
        >>> is_correct(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 1]))
        tensor([ True, False])
    """
    return counted(y, logits, None) & (logits.argmax(1) == hard_labels(y))


def effective_margin(
    net: Net, x: Float[Tensor, "b ..."], y: Labels, candidates: int | None = None
) -> Float[Tensor, "b"]:
    """Return the l2 distance to the nearest class boundary of the net linearised at each image.

    It is `min_{j != y} (f_y(x) - f_j(x)) / ||grad_x (f_y - f_j)(x)||_2`, which is exact for a linear net.

    Args:
        net: images to logits; it runs in evaluation mode and is left as it was.
        x: images [b c h w].
        y: labels [b], or soft labels [b k], of which the most probable class counts.
        candidates: number of classes compared with the label, those with the highest logits; each takes one backward
            pass. All others by default.

    Returns:
        Distances [b], negative where the sample is misclassified.

    Example:
        >>> effective_margin(torch.nn.Flatten(), torch.tensor([[[[0.8, 0.2]]]]), torch.tensor([0]))
        tensor([0.4243])

    Paper: effective margin regularization (arXiv 2210.05118) penalises the denominator, the effective weight norm.
    """
    net = LogitsNet(net)
    with attack_mode(net):
        x, y = detached(x), hard_labels(detached(y))
        with torch.no_grad():
            logits = net(x)
        margins = []
        for j in runners_up(logits, y, candidates or logits.shape[1]).unbind(1):
            grad, gap = input_gradient(lambda z, j=j: _gap(net(z), y, j), x)  # type: ignore[misc]
            margins.append(gap / grad.flatten(1).norm(dim=1).clamp_min(torch.finfo(grad.dtype).tiny))
    return torch.stack(margins).amin(0)


def effective_weight_norm(net: Net, x: Float[Tensor, "b ..."], temperature: float = 1.0) -> Float[Tensor, "b"]:
    """Return the norm of the mean effective weight, `||sum_k p_k grad_x f_k(x)||_2` with `p = softmax(f(x) / T)`.

    Args:
        net: images to logits; it runs in evaluation mode and is left as it was.
        x: images [b c h w].
        temperature: temperature T of the softmax, > 0.

    Returns:
        Norms [b].

    Example:
        >>> effective_weight_norm(torch.nn.Flatten(), torch.tensor([[[[0.5, 0.5]]]]))
        tensor([0.7071])

    Paper: effective margin regularization (arXiv 2210.05118) penalises its square.
    """
    net = LogitsNet(net)
    with attack_mode(net):
        gradient, _ = input_gradient(lambda z: mean_logit(net(z), temperature), detached(x))
    norm: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return norm


def wilson_interval(correct: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson confidence interval of a proportion.

    Args:
        correct: number of successes; a sum of shares of trials is possible.
        n: number of trials, > 0; of trials that vary less, the number of independent ones with the same variance.
        z: quantile of the standard normal distribution; the default gives 95 % confidence.

    Returns:
        The lower and the upper bound, between which the proportion itself always lies.

    Raises:
        ValueError: if not 0 <= correct <= n with n > 0.

    Example:
        >>> low, high = wilson_interval(50, 100)
        >>> round(low, 3), round(high, 3)
        (0.404, 0.596)

    Reference: E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (JASA 1927).
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"A proportion needs 0 <= correct <= n and n > 0, got {correct} of {n}.")
    p = correct / n
    denominator = 1 + z**2 / n
    centre = (p + z**2 / (2 * n)) / denominator
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / denominator
    # rounding must not move a bound past the proportion itself
    return max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p))


def _gap(logits: Tensor, y: Tensor, j: Tensor) -> Tensor:
    """Return the label's logit minus that of class j, of each sample."""
    return (logits.gather(1, y[:, None]) - logits.gather(1, j[:, None]))[:, 0]
