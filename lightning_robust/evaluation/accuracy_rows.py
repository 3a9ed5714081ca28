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
    """Turn the shares of forward passes in which a random net is right on each sample [n] into its accuracy.

    The interval is that of as many samples with a fixed answer each, which vary more.

    Example:
        >>> import torch
        >>> mean_accuracy(torch.tensor([1.0, 0.5, 0.0, 0.5]))["accuracy"]
        0.5
    """
    n, right = len(shares), float(shares.double().sum())
    return {
        "accuracy": right / n,
        "correct": round(right, 2),
        "confidence_interval": list(wilson_interval(right, n)),
        "passes": PASSES,
    }


def finite(value: float) -> float | None:
    """Return a number, or None instead of NaN and infinity, which JSON does not have.

    Example:
        >>> finite(0.5), finite(math.nan)
        (0.5, None)
    """
    return value if math.isfinite(value) else None
