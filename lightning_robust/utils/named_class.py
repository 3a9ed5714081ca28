"""Whether an object is of a class, known by its name alone."""

from typing import Any


def is_named(value: Any, *names: str) -> bool:
    """Return whether a value's class, or one that it derives from, has one of these names.

    The packages `lightning` and `pytorch_lightning` hold the same classes twice, of which none derives from the other.
    By their names, callbacks know the trainer's parts whichever package they are from.

    Args:
        value: any object.
        names: of classes, without their modules.

    Example:
        >>> is_named(True, "int"), is_named("a", "int", "float")
        (True, False)
    """
    return any(cls.__name__ in names for cls in type(value).__mro__)
