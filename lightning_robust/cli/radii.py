"""Radii that were meant in levels of 255."""

from collections.abc import Iterator
from typing import Any

from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.threat import Threat


def check_radii(model: Any, evaluation: RobustEvaluation) -> None:
    """Refuse an linf radius that is wider than the box: every image lies within it.

    Args:
        model: the defense, with its training attack.
        evaluation: the attacks of the evaluation.

    Raises:
        ValueError: naming the setting, and what was probably meant.
    """
    for where, threat in _threats(model, evaluation):
        if threat is not None and threat.norm == "linf" and threat.eps > threat.upper - threat.lower:
            raise ValueError(
                f"{where}.eps: the linf radius {threat.eps:g} is wider than the pixels' range [{threat.lower:g}, "
                f"{threat.upper:g}]: for {threat.eps:g} of 255 levels write {threat.eps:g}/255."
            )


def _threats(model: Any, evaluation: RobustEvaluation) -> Iterator[tuple[str, Threat | None]]:
    yield "model.attack.threat", getattr(getattr(model, "attack", None), "threat", None)
    yield "evaluation.threat", evaluation.threat
    for section in ("attacks", "fit_attacks"):
        for name, attack in getattr(evaluation, section).items():
            yield f"evaluation.{section}.{name}.threat", getattr(attack, "threat", None)
