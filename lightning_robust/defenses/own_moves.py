"""Methods that move their examples in their own way, and take settings of PGD for it."""

from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.friendly_pgd import FriendlyPGD
from lightning_robust.attacks.pgd import PGD


def as_pgd(method: str, attack: Attack) -> PGD:
    """Return the training attack of a method that takes PGD alone, and of PGD nothing that leaves the ball.

    Raises:
        ValueError: for another attack.
    """
    if not isinstance(attack, PGD) or not attack.within_radius:
        raise ValueError(
            f"{method} moves its examples in its own way, by settings of PGD, but its attack is "
            f"{type(attack).__name__}: set it to PGD."
        )
    return attack


def plain_pgd(method: str, attack: Attack, takes: str) -> PGD:
    """Return the training attack of a method that takes few settings of PGD.

    Args:
        method: the defense's name, for the message.
        attack: its training attack.
        takes: the settings that it takes, for the message.

    Raises:
        ValueError: for another attack, or one with settings that the method does not take.
    """
    pgd = as_pgd(method, attack)
    if isinstance(pgd, FriendlyPGD) or pgd.targeted or pgd.momentum or pgd.restarts > 1 or pgd.clean_start:
        raise ValueError(
            f"{method} moves its examples in its own way: of the attack it takes {takes}; leave targeted, momentum, "
            "restarts and clean_start out, and set the attack to PGD."
        )
    return pgd


def refuse_clean_start(term: str, attack: Attack, otherwise: str = "") -> None:
    """Raise for an attack that starts at the clean image, where a distance from the clean output has no gradient.

    Args:
        term: the distance, for the message.
        attack: the training attack.
        otherwise: what else the message advises.

    Raises:
        ValueError: for such an attack.
    """
    starting = (attack,) if hasattr(attack, "start") else attack.parts
    if any(getattr(part, "start", "uniform") == "none" or getattr(part, "clean_start", 0) for part in starting):
        raise ValueError(
            f"{term} has no gradient at the clean image, so an attack that starts there never moves: set its start to "
            f"normal or uniform and leave clean_start out{otherwise}."
        )
