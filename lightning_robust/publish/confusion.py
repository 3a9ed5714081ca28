"""What a net takes attacked images for, as counts."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_robust.evaluation.samples import Samples

FEW_CLASSES = 20
"""The largest number of classes for which the whole matrix is shown; of more, the most frequent mistakes are."""
PAIRS = 20


def under_attack(samples: Samples, attacks: Sequence[str]) -> Tensor:
    """Return the classes [n] that the net predicts in the worst case.

    For each sample it is the prediction on the example of the first attack that broke it; where none did, or the net is
    wrong without an attack, it is the clean prediction.

    Args:
        samples: with the attacks' verdicts.
        attacks: their names.
    """
    predicted, open_ = samples.clean.clone(), samples.right
    for name in attacks:
        verdicts = samples.verdicts[name]
        broken = open_ & ~verdicts.standing
        predicted = torch.where(broken, verdicts.predicted.to(predicted), predicted)
        open_ = open_ & verdicts.standing
    return predicted


def confusion(y: Tensor, predicted: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Count how often images of one class were taken for another.

    Args:
        y: labels [n].
        predicted: predictions [n].
        names: of the classes, at least as many as there are.

    Returns:
        `rows`, the whole matrix, each cell with its `count`, its `share` of the true class and whether it is `right`,
        or None for many classes; and `pairs`, the most frequent mistakes.

    Example:
        >>> told = confusion(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), ["cat", "dog"])
        >>> [[cell["count"] for cell in row] for row in told["rows"]], told["pairs"]
        ([[1, 1], [0, 1]], [{'label': 'cat', 'taken': 'dog', 'count': 1, 'share': 0.5}])
    """
    k = len(names)
    counts = torch.bincount(y * k + predicted, minlength=k * k).view(k, k)
    shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
    mistakes = counts.clone().fill_diagonal_(0).flatten()
    order = mistakes.argsort(descending=True, stable=True)[:PAIRS].tolist()
    pairs = [
        {
            "label": names[place // k],
            "taken": names[place % k],
            "count": int(mistakes[place]),
            "share": float(shares.flatten()[place]),
        }
        for place in order
        if mistakes[place]
    ]
    if k > FEW_CLASSES:
        return {"rows": None, "pairs": pairs}
    lines = zip(counts.tolist(), shares.tolist(), strict=True)
    rows = [
        [{"count": c, "share": s, "right": i == j} for j, (c, s) in enumerate(zip(*line, strict=True))]
        for i, line in enumerate(lines)
    ]
    return {"rows": rows, "pairs": pairs}
