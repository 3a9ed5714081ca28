"""Parts of messages and errors that several modules share."""

import difflib
import pickle
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message about an unknown name: the nearest known name, or the list of them.

    Args:
        name: the name that is not known.
        known: all known names; they are listed only if there are 150 or fewer.

    Example:
        >>> did_you_mean("resnet19", ["resnet18", "vgg11"])
        "; did you mean 'resnet18'?"
        >>> did_you_mean("PDG", ["PDPGD", "PGD"])
        "; did you mean 'PGD'?"
        >>> did_you_mean("mobile", ["resnet18", "vgg11"])
        '; there are resnet18, vgg11.'
    """
    known = sorted(set(known) - {name})  # it was typed, so it is not what was meant
    begun = [other for other in known if len(name) > 2 and other.startswith(name)]  # an abbreviation
    swapped = [other for other in known if sorted(other) == sorted(name)]  # the right letters in another order
    if close := begun or swapped or difflib.get_close_matches(name, known, n=1):
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(known) or 'none'}." if len(known) <= 150 else "."


def describe_error(error: BaseException) -> str:
    """Return an exception's class and the first line of its message, as one sentence.

    What torch says of a file that holds code is not repeated: it advises to let it run.

    Example:
        >>> describe_error(OSError("no space left\\non device 3"))
        'OSError: no space left.'
    """
    if isinstance(error, pickle.UnpicklingError):
        return "UnpicklingError: it is damaged, or holds more than tensors and plain values, which could run code."
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}."


def one_line(text: object) -> str:
    """Return a text in one line, with a ? for each character that a terminal may take for a command.

    Example:
        >>> one_line("no such file:\\n  \\x1b[2Ja")
        'no such file: ?[2Ja'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(text).split()))


def shorten(name: str, most: int = 18) -> str:
    """Cut a name that is longer than `most` letters, for places that leave no room for more.

    Example:
        >>> shorten("Ankle boot"), shorten("a boot with a very long name")
        ('Ankle boot', 'a boot with a ver…')
    """
    return name if len(name) <= most else f"{name[: most - 1]}…"


def duration(seconds: float, digits: int = 1) -> str:
    """Return a time in words: in seconds up to two minutes, in minutes up to two hours, then in hours.

    Example:
        >>> duration(12.34), duration(250), duration(9000, digits=0)
        ('12.3 s', '4.2 min', '2 h')
    """
    for most, unit, word in ((120, 1, "s"), (7200, 60, "min")):
        if seconds < most:
            return f"{seconds / unit:.{digits}f} {word}"
    return f"{seconds / 3600:.{digits}f} h"


@contextmanager
def survivable(what: str) -> Iterator[None]:
    """Turn an error of something that a run does not depend on, such as a logger, into a warning.

    Args:
        what: what is tried, as the beginning of a sentence.

    Example:
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warnings.simplefilter("always")
        ...     with survivable("Asking the server"):
        ...         raise ConnectionError("no network")
        >>> str(told[0].message)
        'Asking the server failed (ConnectionError: no network.) The run goes on.'
    """
    try:
        yield
    except Exception as error:
        warnings.warn(f"{what} failed ({describe_error(error)}) The run goes on.", stacklevel=3)
