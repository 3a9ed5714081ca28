"""Parts of error messages."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """How an error about an unknown name ends: with the nearest known one, or all of them if they are not too many."""
    known = sorted(set(known))
    if close := difflib.get_close_matches(name, known, n=1):
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(known) or 'none'}." if len(known) <= 150 else "."


def first_line(error: BaseException) -> str:
    """An error of another library, in short."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0].rstrip('.')}."
