"""The classes that the type of a setting allows, and their settings."""

import inspect
import typing
from collections.abc import Callable as AbstractCallable
from collections.abc import Iterator
from typing import Any

from torch import nn

import lightning_robust.models


def classes_in(typehint: Any) -> Iterator[type]:
    """Find the classes in a type whose subclasses can be named, or that a callable in it returns."""
    origin, arguments = typing.get_origin(typehint), typing.get_args(typehint)
    if origin is AbstractCallable:
        yield from classes_in(arguments[-1])
    elif arguments:
        for argument in arguments:
            yield from classes_in(argument)
    elif inspect.isclass(typehint) and typehint.__module__ != "builtins":
        yield typehint


def choices_of(kind: type) -> Iterator[type]:
    """List the classes that can be named where one of this kind is asked for; of nets, those of this package."""
    if kind is nn.Module:
        models = (getattr(lightning_robust.models, name) for name in lightning_robust.models.__all__)
        yield from (found for found in models if inspect.isclass(found) and issubclass(found, nn.Module))
        return
    if not (inspect.isabstract(kind) or kind.__name__.startswith("_") or "<locals>" in kind.__qualname__):
        yield kind
    below: list[type] = kind.__subclasses__()
    for sub in below:
        yield from choices_of(sub)


def settings_of(cls: Any) -> list[str]:
    """Return the names of a constructor's arguments, including those that it hands on to its bases."""
    classes = inspect.getmro(cls) if inspect.isclass(cls) else (cls,)
    found = {p for c in classes if c is not object for p in inspect.signature(c).parameters}
    return sorted(found - {"self", "args", "kwargs"})


def annotations_of(owner: Any) -> dict[str, Any]:
    """Return the types of a constructor's arguments, including those that it hands on to its bases."""
    hints: dict[str, Any] = {}
    for cls in reversed(inspect.getmro(owner)) if inspect.isclass(owner) else ():
        try:
            hints |= typing.get_type_hints(cls.__init__)  # type: ignore[misc]
        except (AttributeError, NameError, TypeError):  # annotations that only a type checker can read
            continue
    return {name: hint for name, hint in hints.items() if name not in ("return", "args", "kwargs")}
