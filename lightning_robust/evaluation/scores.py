"""Confidence, negative log-likelihood and Brier score of each sample, from which calibration is computed."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

COLUMNS = 3
"""The confidence, the NLL and the Brier score."""


def scores(logits: Tensor, y: Tensor) -> Tensor:
    """Return each sample's confidence, negative log-likelihood and Brier score [b 3].

    With `p = softmax(logits)` they are `max_k p_k`, `-log p_y` and `sum_k (p_k - [k = y])^2`. A masked class, of logit
    -inf, has probability 0, and as the label an NLL of inf.

    Args:
        logits: logits [b k].
        y: labels [b].

    Returns:
        Values in [0, 1], [0, inf] and [0, 2], computed in fp64; NaN where a logit is +inf or NaN.

    Example:
        >>> scores(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).round(decimals=4)
        tensor([[0.5000, 0.6931, 0.5000]], dtype=torch.float64)
    """
    log_p = logits.double().log_softmax(1)
    p = log_p.exp().clamp_max(1)
    brier = (p - one_hot(y, p.shape[1])).square().sum(1)
    return torch.stack([p.amax(1), -log_p.gather(1, y[:, None])[:, 0], brier], 1)


def strongest(before: Tensor, seen: Tensor, broken: Tensor, within: bool = True) -> Tensor:
    """Return the scores [b 3] to keep: those seen on what broke the sample, or within the radius has a greater NLL.

    Args:
        before: what was kept so far [b 3].
        seen: on new examples [b 3].
        broken: which of them broke their sample [b].
        within: whether the others lie within the radius.
    """
    return torch.where((broken | (within & (seen[:, 1] > before[:, 1])))[:, None], seen, before)


def unknown_scores(n: int) -> Tensor:
    """Return the scores [n 3] of samples of which they are not known."""
    return torch.full((n, COLUMNS), torch.nan, dtype=torch.float64)


def possible(values: Tensor) -> bool:
    """Return whether scores [n 3] can be those of logits; NaN says that they are not known.

    Example:
        >>> possible(torch.tensor([[0.5, 0.7, 0.5], [torch.nan] * 3])), possible(torch.tensor([[1.5, 0.7, 0.5]]))
        (True, False)
    """
    highest = torch.tensor([1, torch.inf, 2 + 1e-9], dtype=values.dtype)
    inside = (values >= 0) & (values <= highest) if values.shape[1:] == (COLUMNS,) else torch.tensor(False)
    return bool((inside | values.isnan()).all())
