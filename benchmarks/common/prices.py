"""The price of a recipe's training step: its seconds over those of AT's."""

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.recipes import Steps, identity
from benchmarks.common.runs import append, read
from benchmarks.common.timing import interleave, ratio

ROUNDS = 5


@dataclass(frozen=True)
class Price:
    """Seconds a training step over AT's: median and quartiles over rounds."""

    recipe: str
    config: str
    ratio: float
    low: float
    high: float


def prices(path: Path, configs: Mapping[str, dict[str, Any]], base: dict[str, Any]) -> dict[str, Price]:
    """The seconds a step of each recipe over AT's, all interleaved in this process; what is there is not repeated.

    Args:
        path: the file of finished lines.
        configs: the recipes' whole configurations.
        base: AT's.
    """
    wanted = {recipe: identity(config) for recipe, config in configs.items()}
    known = {price.recipe: price for price in read(path, Price) if wanted.get(price.recipe) == price.config}
    missing = [recipe for recipe in configs if recipe not in known]
    if missing:
        with tempfile.TemporaryDirectory() as folder:
            arms = {"": Steps(copy.deepcopy(base), folder)}
            arms |= {recipe: Steps(copy.deepcopy(configs[recipe]), folder) for recipe in missing}
            seconds = interleave(arms, ROUNDS)
        for recipe in missing:
            of = ratio(seconds[recipe], seconds[""])
            known[recipe] = Price(recipe, wanted[recipe], *(round(v, 4) for v in (of.median, of.low, of.high)))
            append(path, known[recipe])
    return known
