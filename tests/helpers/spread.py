"""A part of all combinations, spread evenly over them; `EXHAUSTIVE=1 pytest ...` runs all."""

import os
from collections.abc import Iterable
from itertools import product
from typing import Any


def spread(*axes: Iterable[Any], one_in: int) -> list[tuple[Any, ...]]:
    """Return one in so many of the combinations of the axes' values, each value in its share of them.

    Example:
        >>> spread("ab", [1, 2], one_in=2)
        [('a', 1), ('b', 2)]
    """
    step = 1 if os.environ.get("EXHAUSTIVE") else one_in
    numbered = product(*(enumerate(axis) for axis in axes))
    return [tuple(value for _, value in case) for case in numbered if sum(number for number, _ in case) % step == 0]
