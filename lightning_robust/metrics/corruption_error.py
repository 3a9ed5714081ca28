"""Error under common corruptions, alone and relative to a reference classifier."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_robust.metrics.functional import is_correct
from lightning_robust.metrics.settings import counted, keep_apart
from lightning_robust.utils.private_apis import plot_metric

ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
    "clean": 0.434780,
}
"""AlexNet's errors on ImageNet-C, each the mean over five severities of 50,000 images, and on clean images.

Reference: google-research/augmix@9b9824c, which takes them from the authors of ImageNet-C.
RobustBench/robustbench@78fcc9e measured them on a tenth of the images, within 0.7 percentage points. "clean" is
torchvision's for the same weights, `AlexNet_Weights.IMAGENET1K_V1` (top-1 56.522 %).
"""

COMMON_CORRUPTIONS = tuple(name for name in ALEXNET_ERRORS if name != "clean")
"""The fifteen corruptions of ImageNet-C and CIFAR-10-C, in the paper's order."""


class CorruptionError(Metric):
    """Error under each corruption, their mean, and the mean corruption error (mCE) relative to a reference classifier.

    The error E_c under a corruption is the mean over its severities s. Relative to a reference,
    CE_c = sum_s E_(c,s) / sum_s E^ref_(c,s), and mCE is the mean of CE_c over the corruptions. For the relative mCE,
    CE_c = sum_s (E_(c,s) - E_clean) / sum_s (E^ref_(c,s) - E^ref_clean).

    `compute` returns a dict of errors: each corruption's name, "mean", and "clean" if there are clean samples; with a
    reference "mce", and with both clean errors "relative_mce" (1 is the reference's). Values are NaN where no sample
    was seen. Counts are integers, so they are exact over any number of batches and ranks.

    Args:
        groups: every (corruption, severity) that is measured; ("clean", 0) stands for uncorrupted samples.
        reference: error in (0, 1] of the reference for each corruption, the mean over the same severities, and for
            "clean" if it is known: `ALEXNET_ERRORS` for ImageNet-C with its fifteen corruptions at severities 1 to 5.
        ignore_index: label of the samples that do not count; None counts all.

    Raises:
        ValueError: for repeated groups, groups without a corruption, a reference that lacks a corruption or has no
            error under one; when updated, for labels of another shape than [b].

    Example:
        >>> metric = CorruptionError([("fog", 1), ("fog", 2)], reference={"fog": 0.5})
        >>> logits = torch.tensor([[2.0, 1.0], [2.0, 1.0]])
        >>> metric.update(logits, torch.tensor([0, 0]), ("fog", 1))
        >>> metric.update(logits, torch.tensor([0, 1]), ("fog", 2))
        >>> {name: value.item() for name, value in metric.compute().items()}
        {'fog': 0.25, 'mean': 0.25, 'mce': 0.5}

    Paper: Hendrycks, Dietterich 2019 (arXiv 1903.12261), section 4.
    Reference: google-research/augmix@9b9824c, `compute_mce` (in percent there).
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot = plot_metric
    plot_lower_bound = 0.0
    wrong: Tensor
    total: Tensor

    def __init__(
        self,
        groups: Sequence[tuple[str, int]],
        reference: Mapping[str, float] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.groups = list(groups)
        self.corruptions = list(dict.fromkeys(name for name, severity in self.groups if severity > 0))
        if len(set(self.groups)) < len(self.groups) or not self.corruptions:
            raise ValueError(
                f"Groups must be distinct (corruption, severity), some of severity > 0, got {self.groups}."
            )
        missing = [name for name in self.corruptions if reference is not None and name not in reference]
        if missing:
            raise ValueError(f"The reference has no error for {', '.join(missing)}.")
        zero = [name for name in self.corruptions if reference is not None and not reference[name] > 0]
        if zero:
            raise ValueError(
                f"The reference makes no error under {', '.join(zero)}, and mCE divides by it: leave the corruption or "
                "the reference out."
            )
        self.reference = None if reference is None else dict(reference)
        keep_apart(self, groups=self.groups, ignore_index=ignore_index)
        self.add_state("wrong", torch.zeros(len(self.groups), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(len(self.groups), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, y: Tensor, group: Tensor | tuple[str, int]) -> None:
        """Count the samples of a batch.

        Args:
            logits: logits [b k].
            y: labels [b] or [b k].
            group: the samples' groups as numbers in `groups` [b], or one (corruption, severity) for the whole batch.

        Raises:
            ValueError: for a group that was not given to the constructor.
        """
        if not isinstance(group, Tensor):
            if group not in self.groups:
                raise ValueError(f"{group} is none of the groups that are measured: {self.groups}.")
            group = torch.full_like(y, self.groups.index(group))
        counts = counted(y, logits, self.ignore_index)
        wrong, group = ~is_correct(logits, y)[counts], group[counts].long()
        self.wrong += torch.bincount(group[wrong], minlength=len(self.groups))
        self.total += torch.bincount(group, minlength=len(self.groups))

    def compute(self) -> dict[str, Tensor]:
        """Return the errors in [0, 1] by name, and mCE as a ratio."""
        error = dict(zip(self.groups, self.wrong.double() / self.total, strict=True))
        out = {}
        for corruption in self.corruptions:
            out[corruption] = torch.stack([e for (name, _), e in error.items() if name == corruption]).mean()
        errors = torch.stack(list(out.values()))
        out["mean"] = errors.mean()
        clean = error.get(("clean", 0))
        if clean is not None:
            out["clean"] = clean
        if self.reference is not None:
            reference = errors.new_tensor([self.reference[c] for c in self.corruptions])
            out["mce"] = (errors / reference).mean()
            if clean is not None and "clean" in self.reference:
                out["relative_mce"] = ((errors - clean) / (reference - self.reference["clean"])).mean()
        return out

    def counts(self) -> dict[tuple[str, int], tuple[int, int]]:
        """Return each group's number of correct samples and of all samples, over all ranks."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            right = self.total - self.wrong
            return dict(zip(self.groups, zip(right.tolist(), self.total.tolist(), strict=True), strict=True))
