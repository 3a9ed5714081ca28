"""Progress of attacks: they count their steps, and a listener is told of each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Listener: TypeAlias = Callable[[int, int], None]
"""Called with the number of steps done and the number of all steps."""

_listener: ContextVar[Listener | None] = ContextVar("attack_progress", default=None)
_part: ContextVar[tuple[int, int]] = ContextVar("attack_part", default=(0, 1))


def steps(n: int) -> Iterator[int]:
    """Yield `range(n)` and report each step to the listener, if there is one."""
    listener, (i, parts) = _listener.get(), _part.get()
    for k in range(n):
        yield k
        if listener is not None:
            listener(i * n + k + 1, parts * n)


def phases(items: Sequence[T]) -> Iterator[T]:
    """Yield the items, each a phase of the attack (a restart, a radius) that counts its own steps.

    The listener sees one count over all phases.
    """
    for i, item in enumerate(items):
        with part(i, len(items)):
            yield item


@contextmanager
def part(i: int, n: int) -> Iterator[None]:
    """Count the steps taken inside as the i-th of n equal parts of the attack, i from 0."""
    outer, parts = _part.get()
    token = _part.set((outer * n + i, parts * n))
    try:
        yield
    finally:
        _part.reset(token)


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Call `listener(done, total)` after each step of the attacks that run inside."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
