"""Which examples of an evaluation are shown, and the file that a report takes them from."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_robust.callbacks.figures import Examples
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
    row_of = {int(index): row for row, index in enumerate(samples.index)}
    verdicts = samples.verdicts[name]

    def rank(index: int) -> tuple[bool, bool, float, int]:
        row = row_of[index]
        standing = bool(verdicts.standing[row])
        return not bool(samples.right[row]), standing, float("inf") if standing else float(verdicts.size[row]), index

    return sorted(samples.examples[name], key=rank)[:shown]


def drawn(samples: Samples, name: str, shown: int) -> Examples | None:
    """Return the examples to draw under this attack, the most telling first; None if there are none."""
    chosen = telling(samples, name, shown)
    if not chosen:
        return None
    rows = _rows(samples, chosen)
    x, x_adv = torch.stack([samples.examples[name][index] for index in chosen], dim=1)
    return Examples(x, x_adv, samples.y[rows], samples.clean[rows], samples.verdicts[name].predicted[rows])


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
    for name in reversed(names):
        rows = _rows(samples, list(samples.examples[name]))
        broken = samples.right[rows] & ~samples.verdicts[name].standing[rows]
        first |= {index: name for index, one in zip(samples.examples[name], broken.tolist(), strict=True) if one}
    ranked = [(name, index) for name in names for index in telling(samples, name, len(samples))]
    ranked = [(name, index) for name, index in ranked if first.get(index, names[-1]) == name]
    ranked = sorted(ranked, key=lambda pair: pair[1] not in first)[:shown]  # stable
    if not ranked or samples.examples[ranked[0][0]][ranked[0][1]].dim() != 4:
        return
    columns: dict[str, list[Any]] = {}
    for name, index in ranked:
        row, verdicts = int(_rows(samples, [index])), samples.verdicts[name]
        x, x_adv = samples.examples[name][index]
        delta = x_adv - x
        largest = float(delta.abs().max())
        shown_delta = 0.5 + 0.5 * delta / max(largest, 1e-12)
        told = {
            "index": index,
            "label": int(samples.y[row]),
            "clean": int(samples.clean[row]),
            "predicted": int(verdicts.predicted[row]),
            "broken": index in first,
            "attack": name,
            "size": float(verdicts.size[row]),
            "times": 0.5 / largest if largest else 0.0,
            "x": _bytes(x),
            "x_adv": _bytes(x_adv),
            "perturbation": _bytes(shown_delta),
        }
        for key, value in told.items():
            columns.setdefault(key, []).append(value)
    arrays: dict[str, Any] = {key: np.array(values) for key, values in columns.items()}
    with atomic_write(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _rows(samples: Samples, indices: list[int]) -> Tensor:
    """The rows of samples of these indices."""
    row_of = {int(index): row for row, index in enumerate(samples.index)}
    return torch.tensor([row_of[index] for index in indices], dtype=torch.int64)


def _bytes(image: Tensor) -> Any:
    """Turn an image [c h w] into bytes [h w c], with one or three channels."""
    image = image if image.shape[0] == 3 else image.mean(0, keepdim=True)
    return (image.movedim(0, -1).clamp(0, 1) * 255).round().byte().numpy()
