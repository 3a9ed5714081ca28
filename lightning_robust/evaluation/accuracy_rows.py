"""Accuracies with their confidence intervals, as reports tell them."""

import math
from typing import Any

from torch import Tensor

from lightning_robust.evaluation.random_nets import PASSES
from lightning_robust.metrics.functional import wilson_interval


def accuracy(correct: int, n: int) -> dict[str, Any]:
    """Turn a count into an accuracy with its 95 % confidence interval (Wilson).

    Args:
        correct: the number of samples classified correctly.
        n: the number of all samples, > 0.

    Example:
        >>> accuracy(3, 4)["accuracy"], [round(bound, 2) for bound in accuracy(3, 4)["confidence_interval"]]
        (0.75, [0.3, 0.95])
    """
    return {"accuracy": correct / n, "correct": correct, "confidence_interval": list(wilson_interval(correct, n))}


def mean_accuracy(shares: Tensor) -> dict[str, Any]:
    """Turn the shares of `PASSES` forward passes in which a random net is right on each sample [n] into its accuracy.

    Its variance is that of the shares divided by n, in which both the choice of the samples and the randomness of the
    passes are contained. The 95 % confidence interval is Wilson's, of as many independent trials as have this variance:
    at least n, and at most the number of all passes.

    Example:
        >>> import torch
        >>> told = mean_accuracy(torch.tensor([0.7, 0.5, 0.3, 0.5]))
        >>> told["accuracy"], [round(bound, 2) for bound in told["confidence_interval"]]
        (0.5, [0.35, 0.65])
    """
    shares = shares.double()
    n, p = len(shares), float(shares.mean())
    variance = max(float(shares.var()) if n > 1 else 1.0, p * (1 - p) / PASSES)
    trials = max(n * p * (1 - p) / variance, n) if variance else n
    return {
        "accuracy": p,
        "correct": round(n * p, 2),
        "confidence_interval": list(wilson_interval(trials * p, trials)),
        "passes": PASSES,
    }


def finite(value: float) -> float | None:
    """Return a number, or None instead of NaN and infinity, which JSON does not have.

    Example:
        >>> finite(0.5), finite(math.nan)
        (0.5, None)
    """
    return value if math.isfinite(value) else None
