"""How near the nearest examples of an attack come to the best that are known."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_robust.attacks.base import Attack
from lightning_robust.evaluation.samples import Samples
from lightning_robust.threat import Threat


def optimality(size: Tensor, best: Tensor) -> float:
    """Return the optimality of an attack: 1 if its examples are as near as any known, 0 if it finds none.

        1 - (area - best area) / (area without an attack - best area)

    with the areas below the curves of accuracy against radius, from 0 to the radius at which the best known examples
    leave no accuracy.

    Args:
        size: the sizes [n] of the attack's smallest perturbations: 0 where the net errs without one, inf where none
            was found.
        best: the smallest sizes [n] known of the same samples, of this attack and others.

    Returns:
        A number in [0, 1]; NaN where no attack found an example that is not clean.

    Example:
        >>> best = torch.tensor([0.0, 1.0, 3.0])
        >>> optimality(best, best), optimality(torch.tensor([0.0, 2.0, torch.inf]), best)
        (1.0, 0.5)

    Paper: Cina et al. 2025 (AttackBench, arXiv 2404.19460), section 3.
    Reference: attackbench/AttackBench@cb475a2, analysis/utils.py.
    Deviates: the areas are those of the curves, which are steps; the reference's are of lines between the steps'
        corners. What no attack broke is left out of the radius, which would be infinite there.
    """
    size, best = size.double(), best.double()
    known = best[best.isfinite()]
    reach = float(known.max()) if len(known) else 0.0
    area, least, most = (float(s.clamp_max(reach).sum()) for s in (size, best, torch.where(best > 0, torch.inf, best)))
    return 1 - (area - least) / (most - least) if most > least else torch.nan


def optimalities(samples: Samples, attacks: Mapping[str, Attack]) -> dict[str, float]:
    """Return the optimality of each attack that looks for the nearest example, against all attacks of its norm and box.

    Args:
        samples: all samples, with the attacks' verdicts.
        attacks: the attacks by name.

    Returns:
        By the attack's name; without those that no other attack can be compared with.
    """
    alike: dict[Threat, dict[str, Tensor]] = {}
    for name, attack in attacks.items():
        ball = replace(attack.threat, eps=0.0)
        alike.setdefault(ball, {})[name] = sizes(samples, name, attack.minimizes)
    return {
        name: optimality(size, torch.stack(list(found.values())).amin(0))
        for found in alike.values()
        for name, size in found.items()
        if attacks[name].minimizes and len(found) > 1
    }


def in_words(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Tell the optimality of the attacks in a sentence.

    Args:
        rows: of a report, by the attack's name.

    Returns:
        The sentence; empty where no attack has an optimality.

    Example:
        >>> in_words({"fab": {"optimality": 0.81234}, "fmn": {"optimality": 1.0}, "pgd": {}})
        'Optimality (1 where no nearer example is known): fab 0.812, fmn 1.000.'
    """
    told = [f"{name} {row['optimality']:.3f}" for name, row in rows.items() if row.get("optimality") is not None]
    return f"Optimality (1 where no nearer example is known): {', '.join(told)}." if told else ""


def sizes(samples: Samples, name: str, minimizes: bool) -> Tensor:
    """Return the sizes [n] of the smallest perturbations that an attack found.

    Args:
        samples: all samples, with the attacks' verdicts.
        name: the attack's.
        minimizes: whether it looks for the nearest example, so that one beyond the radius counts too.

    Returns:
        0 where the net errs without an attack, inf where no example was found.
    """
    verdicts = samples.verdicts[name]
    found = verdicts.size if minimizes else verdicts.size.masked_fill(verdicts.standing, torch.inf)
    return found.masked_fill(~samples.right, 0.0)
