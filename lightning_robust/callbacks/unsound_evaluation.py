"""The checks of an evaluation itself, and the error where one does not pass."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning import Trainer

from lightning_robust.attacks.base import Attack
from lightning_robust.evaluation.check import Check
from lightning_robust.evaluation.clean_check import clean_accuracy
from lightning_robust.evaluation.evaluate import Evaluation
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.soundness import examine_all
from lightning_robust.runtime.ranks import gather_objects
from lightning_robust.types import Net


class UnsoundEvaluation(RuntimeError):
    """Raised under `strict`, once everything is written, where a check of the evaluation did not pass."""

    exit_status = 3
    """Exit status of the command line."""


def examine_run(
    trainer: Trainer, net: Net, device: torch.device, samples: Samples, found: Samples, run: Evaluation, n: int
) -> list[Check]:
    """Check an evaluation on samples spaced evenly over the data set; all ranks call it together.

    Args:
        trainer: in its evaluation loop.
        net: the net under evaluation.
        device: its device.
        samples: this rank's samples, with their images.
        found: all ranks' samples, with what the evaluation found.
        run: the evaluation.
        n: number of samples to check it on.
    """
    alike, here = first_threat(run.attacks), trainer.is_global_zero
    checks = examine_all(net, samples, found, alike, n, run.seed, run.batch_size, device, here)
    return gather_objects(checks)[0]  # type: ignore[no-any-return]


def first_threat(attacks: Mapping[str, Attack]) -> dict[str, Attack]:
    """Return the attacks that are run at the first one's threat."""
    threat = next(iter(attacks.values())).threat
    return {name: attack for name, attack in attacks.items() if attack.threat == threat}


def compare_clean(report: Mapping[str, Any], logged: Mapping[str, Any], suffix: str) -> bool:
    """Hold a clean accuracy against the one that the module logged, and put the result last among the checks.

    Args:
        report: of an evaluation; without checks, nothing is done.
        logged: what the module has logged so far, by name.
        suffix: how the names of this data loader's values end.

    Returns:
        Whether there was another result before, when less was logged.
    """
    checks = report.get("checks")
    if not checks:  # none inside fit
        return False
    check = clean_accuracy(report, logged, suffix)._asdict()
    before = checks.pop() if checks[-1]["name"] == check["name"] else None
    checks.append(check)
    return before is not None and before != check


def refuse_doubts(reports: Iterable[Mapping[str, Any]]) -> None:
    """Raise `UnsoundEvaluation` unless every check in these reports passed, or only warns of the logged accuracy."""
    checks = [check for report in reports for check in report.get("checks", ())]
    doubts = [
        check["sentence"]
        for check in checks
        if check["status"] not in ("pass", *(["warn"] if check["name"] == "clean" else []))
    ]
    if doubts:
        raise UnsoundEvaluation(" ".join(["The evaluation is not to be trusted:", *doubts]))
