"""Which attacks an evaluation and adversarial training can use."""

from collections.abc import Mapping
from typing import Any

from lightning_robust.attacks.base import Attack


def refuse_targeted(attacks: Mapping[str, Attack]) -> None:
    """Raise for an attack that leads towards the labels it is given, so that its examples are easier than the images.

    Args:
        attacks: the attacks by name, which are to be given the true labels.

    Raises:
        ValueError: naming the attack and the remedy.

    Example:
        >>> from lightning_robust.attacks import PGD
        >>> refuse_targeted({"random classes": PGD(targeted=True, random_targets=10)})
        >>> refuse_targeted({"pgd": PGD(targeted=True)})
        Traceback (most recent call last):
        ...
        ValueError: The attack 'pgd' (PGD) is targeted: it leads towards the labels that it is given, ...
    """
    for name, attack in attacks.items():
        for part in (attack, *attack.stages.values()):
            if _leads_to_labels(part):
                raise ValueError(
                    f"The attack {name!r} ({type(part).__name__}) is targeted: it leads towards the labels that it is "
                    "given, here the true ones, so that its examples are easier than the images. Set targeted to "
                    "false, or random_targets to the number of classes."
                )


def refuse_beyond_radius(attacks: Mapping[str, Attack]) -> None:
    """Raise for an attack whose examples leave the radius, so that an accuracy under it would mean nothing.

    Args:
        attacks: the attacks by name, which are to evaluate a net.

    Raises:
        ValueError: naming the attack and the remedy.

    Example:
        >>> from lightning_robust.attacks import NFGSM
        >>> refuse_beyond_radius({"nfgsm": NFGSM()})
        Traceback (most recent call last):
        ...
        ValueError: The attack 'nfgsm' (NFGSM) is for training alone: its examples leave the radius. Evaluate by ...
    """
    for name, attack in attacks.items():
        for part in (attack, *attack.stages.values()):
            if not part.within_radius:
                raise ValueError(
                    f"The attack {name!r} ({type(part).__name__}) is for training alone: its examples leave the "
                    "radius. Evaluate by PGD or AutoAttack."
                )


def _leads_to_labels(attack: Any) -> bool:
    return bool(getattr(attack, "targeted", False)) and getattr(attack, "random_targets", None) is None
