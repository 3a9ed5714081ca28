"""Metrics whose settings keep their counts apart, and samples that they leave out."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_robust.utils.images import reading_is_free
from lightning_robust.utils.labels import check_labels, hard_labels, is_soft


def keep_apart(metric: Metric, **settings: Any) -> None:
    """Keep a metric from sharing its state with one of other settings in a `MetricCollection`.

    A collection lets metrics share one state whose states have the same names and are equal after the first batch, and
    from then on updates the first of them alone. An empty state, named after the settings, tells them apart.

    Args:
        metric: the metric.
        settings: what decides how it is updated.

    Example:
        >>> from torchmetrics import MetricCollection
        >>> from lightning_robust.metrics import PerturbationNorm
        >>> norms = MetricCollection({"linf": PerturbationNorm("linf"), "l2": PerturbationNorm("l2")})
        >>> x = torch.zeros(1, 1, 1, 2)
        >>> norms.update(x, x)  # both are 0
        >>> norms.update(x + 1, x)
        >>> {name: round(float(value), 4) for name, value in norms.compute().items() if "max" in name}
        {'l2_max': 1.4142, 'linf_max': 1.0}
    """
    told = ",".join(f"{name}={value}" for name, value in settings.items())
    metric.add_state(f"of {told}".replace(".", "_"), torch.zeros(()), dist_reduce_fx="sum")


def counted(y: Tensor, logits: Tensor, ignore_index: int | None) -> Tensor:
    """Mark the samples [b] whose labels are not to be ignored.

    Args:
        y: labels [b], or soft labels [b k], of which the most probable class counts.
        logits: logits [b k] of the same samples.
        ignore_index: the label of samples to leave out; None leaves out none.

    Raises:
        ValueError: for labels of another shape, or rows that are no probabilities (not looked at on a GPU).
    """
    if len(y) != len(logits) or y.dim() != (2 if is_soft(y) else 1) or y.shape[1:] == (1,):
        raise ValueError(
            f"Labels must be class numbers or probabilities of {len(logits)} samples, got {y.dtype} of shape "
            f"{tuple(y.shape)}: squeeze them, or give [b k] floating-point probabilities."
        )
    if is_soft(y) and reading_is_free(y):
        check_labels(y)
    return not_ignored(hard_labels(y), ignore_index)


def not_ignored(y: Tensor, ignore_index: int | None) -> Tensor:
    """Mark the labels [b] that are not the one to leave out; with None, all.

    Example:
        >>> not_ignored(torch.tensor([3, 255]), 255)
        tensor([ True, False])
    """
    return torch.ones_like(y, dtype=torch.bool) if ignore_index is None else y != ignore_index
