"""The stages of an evaluation: the attacks it runs one after the other, and the names they are reported under."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.minimum_norm import MinimumNorm


class Stage(NamedTuple):
    """One attack as it is run and reported.

    Args:
        name: the name it is reported under.
        attack: the attack, which holds the threat and the settings.
        search: how it is called, with (net, x, y, rng=...), to get examples [b c h w].
        nearest: whether `search` gives the nearest examples of whatever size, instead of examples within the radius.
    """

    name: str
    attack: Attack
    search: Callable[..., Tensor]
    nearest: bool = False


def named_stages(name: str, attack: Attack) -> list[Stage]:
    """List the stages of an attack, in the order in which they run; an attack without stages is its own only one.

    An attack that looks for the nearest example is let do so on its own; as a stage of another attack it stops within
    the radius, where the sample is broken.

    Example:
        >>> from lightning_robust.attacks import FAB, AutoAttack
        >>> [(stage.name, stage.nearest) for stage in named_stages("aa", AutoAttack(version="rapid"))]
        [('aa/apgd-ce', False), ('aa/apgd-t', False)]
        >>> [(stage.name, stage.nearest) for stage in named_stages("fab", FAB())]
        [('fab', True)]
    """
    if attack.stages:
        return [Stage(f"{name}/{part_name}", part, part) for part_name, part in attack.stages.items()]
    if isinstance(attack, MinimumNorm):
        return [Stage(name, attack, attack.nearest, nearest=True)]
    return [Stage(name, attack, attack)]
