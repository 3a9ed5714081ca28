"""Results of an evaluation that are written down instead of computed."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_robust.evaluation.images import Images
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.verdicts import Verdicts


def verdicts(broken: Tensor, size: Tensor | None = None, predicted: Tensor | None = None) -> Verdicts:
    """One attack's verdicts; what is left out plays no part."""
    zeros = torch.zeros_like(broken)
    return Verdicts(zeros, broken, zeros if predicted is None else predicted, zeros if size is None else size)


def evaluated(y: Tensor, clean: Tensor, found: Mapping[str, Verdicts]) -> Samples:
    """All ranks' samples, without images."""
    index = torch.arange(len(y))
    return Samples(index, y, clean, index, index, index < 0, Images.none(len(y)), dict(found))
