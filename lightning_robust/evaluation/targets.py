"""The target classes of targeted attacks."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lightning_robust.attacks.pgd import TARGETS, other_classes
from lightning_robust.evaluation.samples import Samples
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.runtime.precision import full_precision
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.types import Net

Choice: TypeAlias = Literal["random", "least_likely"]
"""A target for each sample: a random class other than its label, or the class of the lowest logit."""

Targets: TypeAlias = int | Choice | Sequence[int]
"""One class for all samples, a choice for each, or several classes, one after the other."""


def check_targets(targets: Targets, classes: int | None = None) -> None:
    """Raise for targets that are not valid.

    Args:
        targets: what to check.
        classes: the number of the net's classes, if it is known.

    Raises:
        ValueError: for an unknown word, no class, a class twice, or one that the net does not have.

    Example:
        >>> check_targets([3, 5], classes=10)
        >>> check_targets("likely")
        Traceback (most recent call last):
        ...
        ValueError: Unknown targets 'likely': give the number of a class, several, random or least_likely.
    """
    if isinstance(targets, str):
        if targets not in get_args(Choice):
            raise ValueError(
                f"Unknown targets {targets!r}: give the number of a class, several, random or least_likely."
            )
        return
    numbers = [targets] if isinstance(targets, int) else list(targets)
    if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise ValueError(f"Targets are numbers of classes >= 0, each once, got {numbers}.")
    if classes is not None and max(numbers) >= classes:
        raise ValueError(f"There is no target class {max(numbers)}: the net has {classes} classes, numbered from 0.")


def wanted_classes(
    targets: Targets, net: Net, samples: Samples, classes: int, seed: int, batch_size: int, device: torch.device
) -> dict[str, Tensor]:
    """Return each sample's target [n], by the name under which it is reported: a class, "random" or "least_likely".

    Args:
        targets: what was asked for.
        net: images to logits.
        samples: this rank's samples, with their images.
        classes: how many classes the net tells apart.
        seed: of the random classes, which depend on it and on the sample alone.
        batch_size: how many samples the net is shown at a time.
        device: of the net.
    """
    check_targets(targets, classes)
    if targets == "random":
        return {"random": other_classes(samples.y, classes, SampleRNG(seed, samples.key).fork(TARGETS))}
    if targets == "least_likely":
        lowest = [samples.y[:0]]
        for rows in torch.split(torch.arange(len(samples)), batch_size):
            x = samples.x.read(rows, device)
            with full_precision(x):
                logits = logits_no_grad(net, x)
            lowest.append(logits.masked_fill(logits.isneginf(), torch.inf).argmin(1).cpu())
        return {"least_likely": torch.cat(lowest)}
    numbers: Sequence[Any] = [targets] if isinstance(targets, int) else targets
    return {str(number): torch.full_like(samples.y, number) for number in numbers}
