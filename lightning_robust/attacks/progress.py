"""What attacks and the code around them tell each other: how far they are, and how many rows fit into a batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Listener: TypeAlias = Callable[[int, int], None]
"""Called with the number of steps done and the number of all steps."""


@dataclass(frozen=True)
class Surroundings:
    """What holds for the attacks that run inside a block; no example depends on it.

    Args:
        listener: is told of each step; None for nobody.
        part: which part of the attack runs, from 0.
        parts: how many equal parts the attack has.
        room: how many rows the attack may fill its batches up to, if that is more than it is given.
    """

    listener: Listener | None = None
    part: int = 0
    parts: int = 1
    room: int = 0


_NONE = Surroundings()
_surroundings: ContextVar[Surroundings] = ContextVar("attack_surroundings", default=_NONE)


def steps(n: int) -> Iterator[int]:
    """Yield `range(n)` and report each step to the listener, if there is one."""
    now = _surroundings.get()
    for k in range(n):
        yield k
        if now.listener is not None:
            now.listener(now.part * n + k + 1, now.parts * n)


def phases(items: Sequence[T]) -> Iterator[T]:
    """Yield the items, each a phase of the attack (a restart, a radius) that counts its own steps.

    The listener sees one count over all phases.
    """
    for i, item in enumerate(items):
        with part(i, len(items)):
            yield item


def part(i: int, n: int) -> AbstractContextManager[None]:
    """Count the steps taken inside as the i-th of n equal parts of the attack, i from 0."""
    now = _surroundings.get()
    return _changed(part=now.part * n + i, parts=now.parts * n)


def listen(listener: Listener) -> AbstractContextManager[None]:
    """Call `listener(done, total)` after each step of the attacks that run inside."""
    return _changed(listener=listener)


def room_for(rows: int) -> AbstractContextManager[None]:
    """Let the attacks that run inside fill their batches up to `rows` rows."""
    return _changed(room=rows)


def room() -> int:
    """Return how many rows `room_for` gives room for; 0 outside of it."""
    return _surroundings.get().room


@contextmanager
def _changed(**changes: Any) -> Iterator[None]:
    before = _surroundings.get()
    _surroundings.set(replace(before, **changes))
    try:
        yield
    finally:
        # of an attack that was interrupted, a phase may end after the blocks around it: it puts back what it changed
        _surroundings.set(replace(_surroundings.get(), **{name: getattr(before, name) for name in changes}))
