"""The check of the clean accuracy against the one that the module itself logs."""

from collections.abc import Mapping
from typing import Any

from lightning_robust.evaluation.check import Check
from lightning_robust.metrics.functional import wilson_interval

OTHER = (
    *("adv", "rob", "attack", "pgd", "worst", "top", "class", "loss", "macro", "balanc", "mean", "accum", "weighted"),
    *("train", "group", "corrupt"),
)
"""Parts of names of values that are not the clean accuracy over all samples."""

LARGE = 0.1
"""A difference up to which the module may only count its samples in another way."""


def clean_accuracy(report: Mapping[str, Any], logged: Mapping[str, Any], suffix: str = "") -> Check:
    """Check whether a clean accuracy that the module logged for the same stage is the one measured here.

    A module may normalise the images in its steps; its `forward`, which is attacked, then gets other images. A small
    difference is a warning, because the module may average in another way.

    Args:
        report: what was measured, see `robustness`.
        logged: all that was logged, by name; in [0, 1], or in percent.
        suffix: how the names of this data loader's values end.

    Example:
        >>> report = {"n": 100, "clean": {"correct": 12}}
        >>> clean_accuracy(report, {"val_acc": 0.97, "val_loss": 0.1}).status
        'fail'
    """
    told = {name: float(value) for name, value in logged.items() if name.endswith(suffix) and _is_clean(name)}
    accuracies = {name: value / 100 if value > 1 else value for name, value in told.items()}
    n = report["n"]
    mine = report["clean"]["correct"] / n
    if not accuracies:
        return Check("clean", "pass", "The module logged no accuracy: its forward is taken to expect images as loaded.")
    name, nearest = min(accuracies.items(), key=lambda item: abs(item[1] - mine))
    both = f"The module logged {name} = {nearest:.4g}, and its forward classifies {mine:.4g} of the clean images"
    low, high = wilson_interval(report["clean"]["correct"], n)
    gap = abs(nearest - mine)
    if gap <= (high - low) / 2 + 0.01:
        return Check("clean", "pass", f"{both} correctly.")
    doubt = "do its steps normalise the images? That belongs into forward, which is attacked."
    return Check("clean", "fail" if gap > LARGE else "warn", f"{both} correctly: {doubt}")


def _is_clean(name: str) -> bool:
    name = name.lower()
    return "acc" in name and not any(part in name for part in OTHER)
