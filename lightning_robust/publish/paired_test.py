"""McNemar's test: whether one of two classifiers is better on the same samples."""

from typing import NamedTuple

from scipy.stats import binomtest


class Paired(NamedTuple):
    """A paired test of two runs on the same images (McNemar's exact test, two-sided).

    Args:
        first: the name of one run.
        second: the name of the other.
        measure: "clean" or "robust".
        only_first: the number of images that only the first run has right.
        only_second: the number that only the second has right.
        p: the probability of a difference at least as large if neither is better.
    """

    first: str
    second: str
    measure: str
    only_first: int
    only_second: int
    p: float


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the p-value of McNemar's exact test, two-sided.

    Args:
        only_first: the number of samples that only the first classifier has right.
        only_second: the number that only the second has right.

    Example:
        >>> mcnemar(5, 5), mcnemar(0, 1), mcnemar(0, 0)
        (1.0, 1.0, 1.0)
        >>> round(mcnemar(1, 9), 4)
        0.0215
    """
    differing = only_first + only_second
    return float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0
