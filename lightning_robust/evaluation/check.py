"""The result of one check of an evaluation."""

from typing import Literal, NamedTuple


class Check(NamedTuple):
    """The result of one check of an evaluation.

    Args:
        name: the check's name.
        status: "pass", "warn" or "fail".
        sentence: what was found, in words.
    """

    name: str
    status: Literal["pass", "warn", "fail"]
    sentence: str


def judged(name: str, share: float, good: float, bad: float, well: str, badly: str) -> Check:
    """Pass if something is the case for a small share of the samples, and warn or fail otherwise.

    Args:
        name: the check's name.
        share: the share of the samples, in [0, 1].
        good: the largest share that passes.
        bad: the largest share that is only a warning.
        well: the sentence of a check that passes.
        badly: the sentence of one that does not.

    Example:
        >>> judged("strength", 0.2, good=0.1, bad=0.3, well="It is strong.", badly="It is weak.").status
        'warn'
    """
    if share <= good:
        return Check(name, "pass", well)
    return Check(name, "warn" if share <= bad else "fail", badly)
