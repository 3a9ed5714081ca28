"""The stages of an evaluation: the attacks it runs one after the other, and the names they are reported under."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from lightning_robust.attacks.base import Attack


class Stage(NamedTuple):
    """One attack as it is run and reported.

    Args:
        name: the name it is reported under.
        attack: the attack, which holds the threat and the settings.
        nearest: whether it gives the nearest examples of whatever size, instead of examples within the radius.
    """

    name: str
    attack: Attack
    nearest: bool = False

    @property
    def search(self) -> Callable[..., Tensor]:
        """How the attack is called, with (net, x, y, rng=...), to get examples [b c h w]."""
        attack: Any = self.attack
        return attack.nearest if self.nearest else attack  # type: ignore[no-any-return]


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
    parts = [Stage(f"{name}/{part_name}", part) for part_name, part in attack.stages.items()]
    return parts or [Stage(name, attack, attack.minimizes)]
