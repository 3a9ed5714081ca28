"""One file of an unfinished evaluation: what one process has found, written as plain data and read with suspicion."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_robust.attacks.base import Attack
from lightning_robust.evaluation.images import Images
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.scores import possible
from lightning_robust.evaluation.stages import Stage, named_stages
from lightning_robust.evaluation.verdicts import STANDING, Verdicts
from lightning_robust.utils.images import check_examples

FORMAT = 5
"""Version of the file format; files of another version are not read."""


def content(samples: Samples, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return what is written to a file, as plain data.

    Args:
        samples: a rank's samples; their images are left out.
        seconds: the time that each stage took there, by the stage's name.
    """
    verdicts = {name: vars(found) for name, found in samples.verdicts.items()}
    columns = {name: value for name, value in vars(samples).items() if name != "x"}
    return {
        "format": FORMAT,
        "samples": {**columns, "verdicts": verdicts},
        "seconds": dict(seconds),
    }


def read(
    path: Path, samples: Samples, attacks: Mapping[str, Attack], classes: int | None
) -> tuple[Samples, dict[str, float]]:
    """Read the file of a process and check each value in it.

    Args:
        path: the file.
        samples: samples with the same attacks' verdicts.
        attacks: the attacks by name.
        classes: number of classes that the net tells apart; None if it is not known.

    Returns:
        The samples without images, and the seconds by stage.

    Raises:
        Exception: of whatever kind for any other file, and for values that no evaluation can have found.
    """
    if path.is_symlink():
        raise ValueError("a link")
    found = torch.load(path, map_location="cpu", weights_only=True)
    if found["format"] != FORMAT:
        raise ValueError("another format")
    saved = Samples(**{**found["samples"], "x": Images.none(len(found["samples"]["index"])), "verdicts": {}})
    saved.verdicts = {name: Verdicts(**found["samples"]["verdicts"][name]) for name in attacks}
    saved.examples = {name: dict(saved.examples[name]) for name in attacks}
    _check_columns(saved, samples)
    if not all(map(possible, (saved.scores, *(verdicts.scores for verdicts in saved.verdicts.values())))):
        raise ValueError("scores that no logits have")
    for labels in (saved.y, saved.clean, *(verdicts.predicted for verdicts in saved.verdicts.values())):
        if not _within(labels, 0, math.inf if classes is None else classes - 1):
            raise ValueError("a label that is no class")
    for name, attack in attacks.items():
        _check_verdicts(saved.verdicts[name], saved.y, named_stages(name, attack))
        for index, pair in saved.examples[name].items():
            _check_example(index, pair, saved, samples.x, attack)
    stages = {stage.name for name, attack in attacks.items() for stage in named_stages(name, attack)}
    seconds = {stage: float(value) for stage, value in found["seconds"].items()}
    if not seconds.keys() <= stages or not all(0 <= value < math.inf for value in seconds.values()):
        raise ValueError("a time that no stage took")
    return saved, seconds


def _check_columns(saved: Samples, samples: Samples) -> None:
    """Raise unless each column has one value for each sample, of the type that it should have."""
    for theirs, ours in zip(saved.tensors(), samples.tensors(), strict=True):
        if not _is_alike(theirs, ours.dtype) or theirs.shape[:1] != saved.index.shape or theirs.dim() != ours.dim():
            raise ValueError("a column of another type or length")


def _check_verdicts(verdicts: Verdicts, y: Tensor, stages: Sequence[Stage]) -> None:
    """Raise for verdicts that an attack of these stages cannot have led to on samples of these labels."""
    eps = max(stage.attack.threat.eps for stage in stages) * (1 + 1e-5) + 1e-6
    largest = math.inf if any(stage.nearest for stage in stages) else eps
    random = verdicts.held.isfinite()
    possible = (
        _within(verdicts.done, 0, len(stages)),
        _within(verdicts.broken, STANDING, verdicts.done - 1),
        _within(verdicts.size, 0, largest),
        _within(verdicts.held[verdicts.held != math.inf], 0, 1),
        _within(verdicts.accuracy[random], 0, 1),
        bool(verdicts.accuracy[~random].isnan().all()),
    )
    wrong = torch.where(random, verdicts.held < 0.5, (verdicts.predicted != y) & (verdicts.size <= eps))
    if not all(possible) or not bool((verdicts.standing | wrong).all()):
        raise ValueError("verdicts that the attack cannot have led to")


def _check_example(index: Any, pair: Any, saved: Samples, x: Images, attack: Attack) -> None:
    """Raise unless it is a pair of images, in the threat's box, of a sample that the file holds."""
    if type(index) is not int or not bool((saved.index == index).any()):
        raise ValueError("an example of no sample")
    if not _is_alike(pair, x.dtype) or pair.shape != (2, *x.size):
        raise ValueError("an example of another type or size")
    check_examples(pair, "saved", attack.threat.lower, attack.threat.upper)


def _is_alike(theirs: Any, dtype: torch.dtype) -> bool:
    """Whether it is a plain tensor of this type, as far as operations on it go."""
    return (
        type(theirs) is Tensor
        and (theirs.dtype, theirs.layout, theirs.device.type) == (dtype, torch.strided, "cpu")
        and not theirs.requires_grad
    )


def _within(values: Tensor, low: float, high: float | Tensor) -> bool:
    """Whether all values lie between these bounds; NaN does not."""
    return bool(((values >= low) & (values <= high)).all())
