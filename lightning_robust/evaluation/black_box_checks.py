"""Checks for masked gradients: whether an attack without gradients breaks what attacks with gradients do not."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_robust.attacks.base import Attack
from lightning_robust.evaluation.check import Check, judged
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.stages import named_stages

QUERIES = 300
"""The number of queries of the black-box attack that probes a net."""


def broken_alone(samples: Samples, tried: Mapping[str, list[int]]) -> Tensor:
    """Mark the samples [n] that black-box attacks of the evaluation broke and none of its gradient attacks did.

    Args:
        samples: all samples, with what `Evaluation` found.
        tried: the numbers of the black-box stages of each attack, by its name, see `black_box_stages`.
    """
    n = len(samples)
    black, white = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    for name, stages in tried.items():
        verdicts = samples.verdicts[name]
        by_black = torch.isin(verdicts.broken, verdicts.broken.new_tensor(stages))
        black, white = black | by_black, white | ~(verdicts.standing | by_black)
    return black & ~white


def black_box(beaten: int, n: int, short: bool, by: Sequence[str] = ("Square",)) -> Check:
    """Check whether an attack without gradients broke samples that no gradient attack, however strong, does.

    Args:
        beaten: how many it broke alone.
        n: the number of samples to relate their number to.
        short: whether it was the short attack of a probe, and not one of the evaluation.
        by: the classes of the attacks without gradients.
    """
    which = f"{' and '.join(by)}, which {'use' if len(by) > 1 else 'uses'} no gradients of the net,"
    told = f"{which} broke {beaten} of {n} samples that no gradient attack breaks"
    mislead = f"{told}: the gradients mislead, and the accuracy is too high."
    # On sound nets short attacks differ by chance: at most by 1 of 64 for linf and l2 on digits, by 3 for l1.
    # The bounds of an evaluation's own are those of fra31/auto-attack@a392200, but one sample is no sign.
    good, bad = (max(0.05, 1 / n), 0.1) if short else (max(0.002, 1 / n), 0.02)
    return judged("black_box", beaten / n, good, bad, f"{told}.", mislead)


def black_box_stages(attacks: Mapping[str, Attack]) -> dict[str, list[int]]:
    """Return the numbers of each attack's black-box stages; empty unless there are both such stages and others.

    Black-box are attacks without gradients of the net: those that take none, and those crafted on another net.

    Example:
        >>> from lightning_robust.attacks import PGD, AutoAttack
        >>> black_box_stages({"aa": AutoAttack(), "pgd": PGD()})
        {'aa': [3], 'pgd': []}
    """
    parts = {name: named_stages(name, attack) for name, attack in attacks.items()}
    found = {name: [k for k, stage in enumerate(p) if not stage.attack.gradients] for name, p in parts.items()}
    return found if 0 < sum(map(len, found.values())) < sum(map(len, parts.values())) else {}


def black_box_classes(attacks: Mapping[str, Attack]) -> list[str]:
    """List the classes of the stages without gradients of the net, each once.

    Example:
        >>> from lightning_robust.attacks import AutoAttack
        >>> black_box_classes({"aa": AutoAttack()})
        ['Square']
    """
    stages = [stage.attack for name, attack in attacks.items() for stage in named_stages(name, attack)]
    return list(dict.fromkeys(type(attack).__name__ for attack in stages if not attack.gradients))
