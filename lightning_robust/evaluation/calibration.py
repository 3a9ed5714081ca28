"""Calibration of a net's confidence, without and under attack: ECE, NLL and Brier score."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryCalibrationError

from lightning_robust.evaluation.accuracy_rows import finite
from lightning_robust.evaluation.samples import Samples

BINS = 15
"""Bins of the expected calibration error, of equal width over [0, 1] (Guo et al. 2017, arXiv 1706.04599)."""


def calibration(scores: Tensor, right: Tensor) -> dict[str, Any]:
    """Return the expected calibration error (ECE), the negative log-likelihood (NLL) and the Brier score.

    ECE is the mean over the samples of |accuracy - mean confidence| of the bin that their confidence lies in, where the
    confidence is the largest probability: what `torchmetrics.classification.MulticlassCalibrationError` computes.

    Args:
        scores: of each sample [n 3], see `lightning_robust.evaluation.scores`.
        right: whether the net is right on it [n].

    Returns:
        "ece" in [0, 1], "nll" in nats, "brier" in [0, 2]; None for what is not finite.

    Example:
        >>> scores = torch.tensor([[0.9, 0.1, 0.02], [0.8, 1.6, 1.28]])
        >>> {name: round(value, 4) for name, value in calibration(scores, torch.tensor([True, False])).items()}
        {'ece': 0.45, 'nll': 0.85, 'brier': 0.65}
    """
    confidence, *columns = scores.unbind(1)
    # of (confidence, right) it is the multi-class error: that one keeps these two numbers of each sample
    metric = BinaryCalibrationError(BINS, norm="l1", sync_on_compute=False)  # every rank has all samples
    if confidence.isfinite().all():
        metric.update(confidence.float(), right.long())
    told = {"ece": finite(float(metric.compute())) if metric.update_called else None}
    for name, column in zip(("nll", "brier"), columns, strict=True):
        mean = MeanMetric(nan_strategy="disable", sync_on_compute=False).set_dtype(torch.float64)
        mean.update(column.double())
        told[name] = finite(float(mean.compute()))
    return told


def worst_scores(evaluations: Sequence[Samples]) -> Tensor:
    """Return the scores [n 3] of each sample in the worst case over all attacks.

    They are those on the example that broke the sample. Where several did, or none, the one of the greatest NLL counts;
    where none did, the clean image is among them. A sample that is wrong without an attack is not attacked.

    Args:
        evaluations: of the same samples, under one threat or several.
    """
    clean = evaluations[0]
    found = [verdicts for samples in evaluations for verdicts in samples.verdicts.values()]
    scores = torch.stack([clean.scores, *(verdicts.scores for verdicts in found)])
    broken = torch.stack([~clean.right, *(clean.right & ~verdicts.standing for verdicts in found)])
    nll = scores[:, :, 1].masked_fill(broken.any(0) & ~broken, -torch.inf)
    return scores.gather(0, nll.argmax(0)[None, :, None].expand(1, -1, scores.shape[2]))[0]


def calibration_report(evaluations: Sequence[Samples], right: Tensor, random: bool = False) -> dict[str, Any]:
    """Return the calibration without attacks ("clean"), and where there are attacks in their worst case ("worst").

    Args:
        evaluations: of the same samples, under one threat or several.
        right: the samples [n] that are classified correctly in the worst case.
        random: whether the logits differ between forward passes. Then there is no worst case: whether an example breaks
            its sample is a matter of many passes, of which the scores tell only one.
    """
    clean = evaluations[0]
    told = {"clean": calibration(clean.scores, clean.right)}
    if clean.verdicts and not random:
        told["worst"] = calibration(worst_scores(evaluations), right)
    return told
