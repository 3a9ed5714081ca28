"""Targeted success: how many samples each targeted attack makes the net classify as the target."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import nn

from lightning_robust.evaluation.evaluate import Evaluation
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.targets import Targets, wanted_classes
from lightning_robust.evaluation.toward_class import TowardClass, toward
from lightning_robust.metrics.functional import wilson_interval
from lightning_robust.runtime.ranks import gather_objects

Begin: TypeAlias = Callable[[nn.Module, Samples, Evaluation, str], Callable[[], None]]
"""Called with the net, the samples, the evaluation and the target's name; returns what saves the results so far."""


def targeted_success(
    net: nn.Module,
    samples: Samples,
    plain: Evaluation,
    targets: Targets,
    classes: int,
    device: torch.device,
    begin: Begin,
    watch: Any,
) -> dict[str, dict[str, Any]]:
    """Attack all samples towards each target, and return the success of each attack; all ranks call it together.

    A sample whose label is the target does not count. One that the net takes for the target without an attack counts as
    moved.

    Args:
        net: images to logits.
        samples: this rank's samples, with their images; they are left as they are.
        plain: the evaluation whose attacks, seed, batch size and precision are taken.
        targets: the classes.
        classes: how many the net tells apart.
        device: of the net.
        begin: restores what an earlier run found.
        watch: follows the progress of the stages.

    Returns:
        For each target by its name what `success` tells of each of the "attacks", and of "any" of them together.

    Raises:
        ValueError: for targets that the net does not have, or that are the label of every sample.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, wanted in wanted_classes(targets, net, samples, classes, plain.seed, plain.batch_size, device).items():
        moved: dict[str, dict[int, tuple[int, int]]] = {attack: {} for attack in plain.attacks}
        by_any: dict[int, tuple[int, int]] = {}
        for target, chosen in _by_target(samples, wanted):
            attacks = {attack: toward(given, target) for attack, given in plain.attacks.items()}
            run, seen = Evaluation(attacks, plain.seed, plain.batch_size, plain.precision), TowardClass(net, target)
            run.prepare(chosen)
            run.run(seen, chosen, device, begin(seen, chosen, run, name), watch)
            n = sum(gather_objects(len(chosen)))
            for attack in attacks:
                moved[attack][target] = _moved(chosen, [attack]), n
            by_any[target] = _moved(chosen, attacks), n
        if not by_any:
            raise ValueError(f"No sample can be moved to class {name}: it is the label of all of them.")
        found[name] = {"attacks": {attack: success(told) for attack, told in moved.items()}, "any": success(by_any)}
    return found


def success(by_class: Mapping[int, tuple[int, int]]) -> dict[str, Any]:
    """Return the share of samples that were moved, with its 95 % confidence interval (Wilson), and that of each target.

    Args:
        by_class: for each target the number of samples that were moved to it, and of all that count.

    Example:
        >>> told = success({1: (1, 2), 4: (2, 2)})
        >>> told["success"], told["moved"], told["n"], told["classes"]["1"]
        (0.75, 3, 4, {'moved': 1, 'n': 2})
    """
    moved, n = (sum(column) for column in zip(*by_class.values(), strict=True))
    told = {"success": moved / n, "moved": moved, "n": n, "confidence_interval": list(wilson_interval(moved, n))}
    return {**told, "classes": {str(target): {"moved": m, "n": of} for target, (m, of) in sorted(by_class.items())}}


def _moved(samples: Samples, attacks: Iterable[str]) -> int:
    """Return how many samples of all ranks one of these attacks moved, or the net takes for the target anyway."""
    return sum(gather_objects(int((~samples.robust(attacks)).sum())))


def _by_target(samples: Samples, wanted: torch.Tensor) -> Iterator[tuple[int, Samples]]:
    """Yield each class that samples of any rank are to be moved to, with this rank's as `TowardClass` sees them."""
    counts = wanted != samples.y
    for target in sorted({target for part in gather_objects(torch.unique(wanted[counts]).tolist()) for target in part}):
        part = samples[counts & (wanted == target)]
        taken = (part.clean == target).long()
        none = torch.zeros_like(part.shown)
        yield target, replace(part, y=torch.zeros_like(part.y), clean=taken, shown=none, verdicts={}, examples={})
