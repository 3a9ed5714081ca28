"""Attacks by the names that papers and tables call them by."""

import re
from collections.abc import Callable, Mapping, Sequence

from lightning_robust.attacks.apgd import APGD
from lightning_robust.attacks.autoattack import AutoAttack
from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.cw import CW
from lightning_robust.attacks.ddn import DDN
from lightning_robust.attacks.deepfool import DeepFool
from lightning_robust.attacks.fab import FAB
from lightning_robust.attacks.fmn import FMN
from lightning_robust.attacks.hop_skip_jump import HopSkipJump
from lightning_robust.attacks.nearest_examples import NearestExamples
from lightning_robust.attacks.objectives import LOSSES
from lightning_robust.attacks.pdpgd import PDPGD
from lightning_robust.attacks.pgd import PGD
from lightning_robust.attacks.sigma_zero import SigmaZero
from lightning_robust.attacks.sparse_rs import SparseRS
from lightning_robust.attacks.square import Square
from lightning_robust.attacks.superdeepfool import SuperDeepFool
from lightning_robust.utils.messages import did_you_mean

NAMES: dict[str, Callable[[], Attack]] = {
    "autoattack": AutoAttack,
    "autoattack-fast": lambda: AutoAttack(version="fast"),
    "autoattack-plus": lambda: AutoAttack(version="plus"),
    "autoattack-rand": lambda: AutoAttack(version="rand"),
    "autoattack-rapid": lambda: AutoAttack(version="rapid"),
    "apgd-ce": APGD,
    "apgd-dlr": lambda: APGD(loss="dlr"),
    "apgd-t": lambda: APGD(targets=9),
    "fgsm": lambda: PGD(steps=1, start="none"),
    "fab": FAB,
    "fab-t": lambda: FAB(targets=9),
    "square": Square,
    "deepfool": DeepFool,
    "nearest": NearestExamples,
    "fmn": FMN,
    "ddn": DDN,
    "pdpgd": PDPGD,
    "sdf": SuperDeepFool,
    "sparse-rs": SparseRS,
    "sigma-zero": SigmaZero,
    "cw": CW,
    "hop-skip-jump": HopSkipJump,
}
"""How the attack of each name is made; `pgd<steps>`, such as `pgd50`, and `pgd<steps>-<loss>` are made too."""


def named_attack(name: str) -> Attack:
    """Return an attack by its name, without a threat of its own.

    Args:
        name: one of `NAMES`, or `pgd<steps>` for PGD with a random start and the default step size, or
            `pgd<steps>-<loss>` for the same on another loss, such as `pgd50-margin`.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> named_attack("pgd50").steps, type(named_attack("apgd-t")).__name__
        (50, 'APGD')
        >>> named_attack("pgd50-label_logit").loss
        'label_logit'
    """
    if pgd := re.fullmatch(rf"pgd(\d+)(?:-({'|'.join(LOSSES)}))?", name):
        return PGD(steps=int(pgd[1]), loss=pgd[2] or "ce")  # type: ignore[arg-type]
    if name not in NAMES:
        raise ValueError(f"There is no attack {name!r}{did_you_mean(name, [*NAMES, 'pgd10', 'pgd50'])}")
    return NAMES[name]()


def named_attacks(attacks: str | Attack | Sequence[str] | Mapping[str, Attack]) -> dict[str, Attack]:
    """Return a dictionary of attacks by name, given names, one attack or such a dictionary.

    Args:
        attacks: a name, an attack, several names, or attacks by name.

    Raises:
        ValueError: for an unknown name, or no attack.

    Example:
        >>> list(named_attacks(["pgd50", "fab"])), list(named_attacks(PGD(steps=3)))
        (['pgd50', 'fab'], ['pgd'])
    """
    if not isinstance(attacks, Attack) and not attacks:
        raise ValueError("There is no attack to evaluate with: give one such as 'autoattack' or 'pgd50'.")
    if isinstance(attacks, Attack):
        return {type(attacks).__name__.lower(): attacks}
    if isinstance(attacks, Mapping):
        return dict(attacks)
    return {name: named_attack(name) for name in ([attacks] if isinstance(attacks, str) else attacks)}
