"""One part of a defense, or several."""

from collections.abc import Sequence
from typing import TypeVar

Part = TypeVar("Part")


def several(given: Part | Sequence[Part] | None) -> tuple[Part, ...]:
    """Return one part, several or none as a tuple.

    Args:
        given: as an argument of a defense.

    Example:
        >>> several(1.5), several([1.5, 2.5]), several(None)
        ((1.5,), (1.5, 2.5), ())
    """
    if given is None:
        return ()
    return tuple(given) if isinstance(given, Sequence) else (given,)
