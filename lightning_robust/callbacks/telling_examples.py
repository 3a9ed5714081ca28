"""Which examples of an evaluation are shown, and the file that a report takes them from."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_robust.callbacks.figures import Examples, displayable, magnified
from lightning_robust.evaluation.samples import Samples
from lightning_robust.utils.files import atomic_write

_SMALL = 3 * 64 * 64
"""Values of an image up to which eight times as many candidates are kept as are shown."""


def candidates(shown: int, shape: Sequence[int]) -> int:
    """Return the number of samples whose adversarial examples are kept to choose those that are shown from.

    Args:
        shown: how many are shown.
        shape: of an image, (c, h, w).

    Example:
        >>> candidates(8, (3, 32, 32)), candidates(8, (3, 224, 224))
        (64, 8)
    """
    return shown * (8 if math.prod(shape) <= _SMALL else 1)


def telling(samples: Samples, name: str, shown: int) -> list[int]:
    """Return the indices of the samples to show under this attack, those broken by the smallest change first.

    Broken ones come first, of them those that took the smallest change; then what withstood the attack; last what is
    misclassified without one.

    Args:
        samples: with the attack's verdicts and examples.
        name: of the attack.
        shown: how many, at most.
    """
    kept = _kept(samples, name)
    verdicts = kept.verdicts[name]
    size = torch.where(verdicts.standing, torch.inf, verdicts.size)
    ranks = zip((~kept.right).tolist(), verdicts.standing.tolist(), size.tolist(), kept.index.tolist(), strict=True)
    return [index for *_, index in sorted(ranks)][:shown]


def drawn(samples: Samples, name: str, shown: int) -> Examples | None:
    """Return the examples to draw under this attack, the most telling first; None if there are none."""
    chosen = telling(samples, name, shown)
    if not chosen:
        return None
    kept = _kept(samples, name)
    kept = kept[torch.tensor([kept.index.tolist().index(index) for index in chosen])]
    x, x_adv = torch.stack([samples.examples[name][index] for index in chosen], dim=1)
    return Examples(x, x_adv, kept.y, kept.clean, kept.verdicts[name].predicted)


def save_telling(samples: Samples, attacks: Iterable[str], shown: int, path: Path) -> None:
    """Write the most telling examples, each under the first attack that broke it, as images of 8 bits.

    The archive holds for each of them `index`, `label`, the classes `clean` and `predicted` without and with the
    attack, whether it is `broken`, the name of the `attack`, the `size` of the perturbation in its norm, by how many
    `times` the picture of it is magnified, and the images `x`, `x_adv` and `perturbation` [n h w c].

    Args:
        samples: with the attacks' verdicts and examples of images [c h w]; of any other shape nothing is written.
        attacks: their names, in the order in which they ran.
        shown: how many examples, at most.
        path: where to write.
    """
    names = list(attacks)
    first: dict[int, str] = {}
    for name in names:
        kept = _kept(samples, name)
        for index in kept.index[kept.right & ~kept.verdicts[name].standing].tolist():
            first.setdefault(index, name)
    ranked = [(name, index) for name in names for index in telling(samples, name, len(samples))]
    ranked = [(name, index) for name, index in ranked if first.get(index, names[-1]) == name]
    ranked = sorted(ranked, key=lambda pair: pair[1] not in first)[:shown]  # stable
    if not ranked or samples.examples[ranked[0][0]][ranked[0][1]].dim() != 4:
        return
    columns: dict[str, list[Any]] = {}
    for name, index in ranked:
        kept = _kept(samples, name)
        one = kept[kept.index == index]
        x, x_adv = samples.examples[name][index]
        perturbation, times = magnified(x[None], x_adv[None])
        told = {
            "index": index,
            "label": int(one.y),
            "clean": int(one.clean),
            "predicted": int(one.verdicts[name].predicted),
            "broken": index in first,
            "attack": name,
            "size": float(one.verdicts[name].size),
            "times": times[0],
            "x": _bytes(x),
            "x_adv": _bytes(x_adv),
            "perturbation": _bytes(perturbation[0]),
        }
        for key, value in told.items():
            columns.setdefault(key, []).append(value)
    arrays: dict[str, Any] = {key: np.array(values) for key, values in columns.items()}
    with atomic_write(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _kept(samples: Samples, name: str) -> Samples:
    """Return the few samples of which an example under this attack is kept."""
    return samples[torch.isin(samples.index, torch.tensor([*samples.examples[name]], dtype=torch.int64))]


def _bytes(image: Tensor) -> Any:
    """Turn an image [c h w] into bytes [h w c], with one or three channels."""
    return np.atleast_3d((displayable(image) * 255).round().astype(np.uint8))
