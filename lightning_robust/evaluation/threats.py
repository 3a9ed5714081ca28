"""The threat that each attack of an evaluation is run at."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.pgd import PGD
from lightning_robust.threat import Threat


def training_threat(module: Any) -> Threat | None:
    """Return the threat of a module's own `attack`, as every defense has one; None for a module without."""
    attack = getattr(module, "attack", None)
    return attack.threat if isinstance(attack, Attack) else None


def training_threats(module: Any) -> tuple[Threat, ...]:
    """Return the threats of a module's own `attack`, which are several where it is one against several norms."""
    attack = getattr(module, "attack", None)
    return attack.threats if isinstance(attack, Attack) else ()


def under_threat(
    attacks: Mapping[str, Attack], trained: Threat | Sequence[Threat] | None, asked: Threat | None
) -> dict[str, Attack]:
    """Put each attack under the threat that it is to be run at; the attacks that are given stay as they are.

    Args:
        attacks: the attacks by name.
        trained: the threats that the net was trained against. They are taken where an attack was given none: of
            several, those in whose norms it works, one after the other.
        asked: a threat for all attacks, whatever they were given.

    Returns:
        The attacks by name, copies of those whose threat changes. Those at several threats have the norm in their name
        (`pgd-l2`), and the radius where a norm stands twice.

    Raises:
        ValueError: for a threat in a norm that an attack does not work in, or names that then clash.

    Example:
        >>> from lightning_robust.attacks import PGD
        >>> attacks = {"own": PGD(Threat("l2", 1.0)), "none": PGD()}
        >>> [str(attack.threat) for attack in under_threat(attacks, Threat("linf", 0.15), None).values()]
        ['l2 1', 'linf 0.15']
        >>> [str(attack.threat) for attack in under_threat(attacks, Threat("linf", 0.15), Threat("l2", 0.5)).values()]
        ['l2 0.5', 'l2 0.5']
        >>> found = under_threat(attacks, [Threat("linf", 0.15), Threat("l2", 0.5)], None)
        >>> {name: str(attack.threat) for name, attack in found.items()}
        {'own': 'l2 1', 'none-linf': 'linf 0.15', 'none-l2': 'l2 0.5'}
    """
    threats = () if trained is None else (trained,) if isinstance(trained, Threat) else tuple(trained)
    found: dict[str, Attack] = {}
    for name, attack in attacks.items():
        wanted = (asked,) if asked else () if attack.threat_given else threats
        at = [threat for threat in wanted if threat.norm in attack.norms] or list(wanted[:1])
        names = [f"{name}-{end}" for end in _endings(at)] if len(wanted) > 1 else [name]
        for each, threat in zip(names, at or [attack.threat], strict=True):
            if each in found or (each != name and each in attacks):
                raise ValueError(f"Two attacks of the evaluation are called {each!r}: give one of them another name.")
            found[each] = attack.with_threat(threat) if at else attack
    return found


def _endings(threats: Sequence[Threat]) -> list[str]:
    """Return what tells threats apart in a name: their norms, with the radii where a norm stands twice."""
    norms = [threat.norm for threat in threats]
    return [threat.norm if norms.count(threat.norm) == 1 else re.sub("[ /:]", "-", str(threat)) for threat in threats]


def short_of_radius(attacks: Mapping[str, Attack]) -> list[str]:
    """Return a sentence for each PGD attack of several steps that cannot reach the radius it is run at.

    Args:
        attacks: the attacks as they are run.

    Example:
        >>> from lightning_robust.attacks import PGD
        >>> short_of_radius({"pgd3": PGD(Threat(eps="8/255"), steps=3, step_size="2/255"), "pgd": PGD()})
        ['pgd3 takes 3 steps of 0.007843 and cannot reach linf 8/255: leave step_size out, or raise it.']
    """
    return [
        f"{name} takes {attack.steps} steps of {attack.step_size:.4g} and cannot reach {attack.threat}: "
        "leave step_size out, or raise it."
        for name, attack in attacks.items()
        if isinstance(attack, PGD) and attack.step_size is not None and attack.steps > 1
        if attack.reach < attack.threat.eps * (1 - 1e-6)
    ]


def mismatch(module: Any, attacks: Mapping[str, Attack]) -> str | None:
    """Return the threats that a module was trained against, as text, if an attack has another; else None.

    Args:
        module: a module that names the threat as `trained_at`, as a defense does, or has an `attack`; of others nothing
            is known.
        attacks: the attacks as they are run.

    Example:
        >>> from types import SimpleNamespace
        >>> from lightning_robust.attacks import PGD
        >>> mismatch(SimpleNamespace(trained_at=Threat(eps="8/255")), {"pgd": PGD(Threat(eps=0.15))})
        'linf 8/255'
    """
    trained = getattr(module, "trained_at", training_threat(module))
    if not isinstance(trained, Threat):
        return None
    every = training_threats(module)
    every = every if trained in every else (trained,)
    others = {(attack.threat.norm, attack.threat.eps, attack.threat.region) for attack in attacks.values()}
    known = others <= {(threat.norm, threat.eps, threat.region) for threat in every}
    return None if known else " and ".join(map(str, every))
