"""The kernels under the metrics: pure functions of tensors."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_robust.losses import mean_logit, runners_up
from lightning_robust.runtime.gradients import detached, input_gradient
from lightning_robust.runtime.modes import attack_mode
from lightning_robust.types import Net


def is_correct(logits: Float[Tensor, "b k"], y: Int[Tensor, "b"]) -> Bool[Tensor, "b"]:
    """Whether the largest logit is the label's."""
    return logits.argmax(1) == y


def effective_margin(
    net: Net, x: Float[Tensor, "b ..."], y: Int[Tensor, "b"], candidates: int | None = None
) -> Float[Tensor, "b"]:
    """Distance to the nearest class boundary of the net linearised at x, in l2: negative where misclassified.

    min over j != y of (f_y(x) - f_j(x)) / ||grad_x (f_y - f_j)(x)||_2, exact for a linear net.

    Args:
        net: images to logits; evaluated in evaluation mode and left as it was.
        x: images [b c h w].
        y: labels [b].
        candidates: compare with only this many highest other classes, one backward pass each; by default with all.

    Paper: effective margin regularization (arXiv 2210.05118) penalises the denominator, the effective weight norm.
    """
    with attack_mode(net):
        x, y = detached(x), detached(y)
        with torch.no_grad():
            logits = net(x)
        margins = []
        for j in runners_up(logits, y, candidates or logits.shape[1]).unbind(1):
            grad, gap = input_gradient(lambda z, j=j: _gap(net(z), y, j), x)  # type: ignore[misc]
            margins.append(gap / grad.flatten(1).norm(dim=1).clamp_min(torch.finfo(grad.dtype).tiny))
    return torch.stack(margins).amin(0)


def effective_weight_norm(net: Net, x: Float[Tensor, "b ..."], temperature: float = 1.0) -> Float[Tensor, "b"]:
    """||sum_k p_k grad_x f_k(x)||_2 with p = softmax(f(x) / temperature): the norm of the mean effective weight.

    Args:
        net: images to logits; evaluated in evaluation mode and left as it was.
        x: images [b c h w].
        temperature: > 0.

    Paper: effective margin regularization (arXiv 2210.05118) penalises its square.
    """
    with attack_mode(net):
        gradient, _ = input_gradient(lambda z: mean_logit(net(z), temperature), detached(x))
    norm: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return norm


def wilson_interval(correct: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Confidence interval of a proportion (95 % by default).

    Reference: E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (JASA 1927).

    Raises:
        ValueError: if not 0 <= correct <= n with n > 0.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"A proportion needs 0 <= correct <= n and n > 0, got {correct} of {n}.")
    p, denominator = correct / n, 1 + z**2 / n
    centre = (p + z**2 / (2 * n)) / denominator
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / denominator
    return max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p))  # p is inside, rounded as it may be


def _gap(logits: Tensor, y: Tensor, j: Tensor) -> Tensor:
    return (logits.gather(1, y[:, None]) - logits.gather(1, j[:, None]))[:, 0]
