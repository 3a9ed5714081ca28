"""The checks of an evaluation itself, and the error where one does not pass."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning import Trainer

from lightning_robust.attacks.base import Attack
from lightning_robust.callbacks.collected import Collected
from lightning_robust.evaluation.check import Check
from lightning_robust.evaluation.evaluate import Evaluation
from lightning_robust.evaluation.soundness import examine
from lightning_robust.runtime.ranks import gather_objects
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.types import Net


class UnsoundEvaluation(RuntimeError):
    """Raised under `strict`, once everything is written, where a check of the evaluation did not pass."""

    exit_status = 3
    """With which the command line ends."""


def examine_first(
    trainer: Trainer, net: Net, device: torch.device, loader: Collected, run: Evaluation, n: int
) -> list[Check]:
    """Check an evaluation on the first samples of the first rank that has any; all ranks call it together.

    Args:
        trainer: in its evaluation loop.
        net: the net under evaluation.
        device: its device.
        loader: its samples, with what the evaluation found.
        run: the evaluation.
        n: number of samples to check it on.
    """
    found: list[Check] = []
    holders = [rank for rank, held in enumerate(gather_objects(len(loader.samples))) if held]
    if trainer.global_rank in holders[:1]:
        samples, some = loader.samples, slice(n)
        x, y, index = (column[some].to(device) for column in (samples.x, samples.y, samples.index))
        alike = first_threat(run.attacks)
        standing = samples.robust(alike)[some].to(device)
        found = examine(net, x, y, alike, loader.found, standing, SampleRNG(run.seed, index), run.batch_size)
    return [check for part in gather_objects(found) for check in part]


def first_threat(attacks: Mapping[str, Attack]) -> dict[str, Attack]:
    """Return the attacks that are run at the first one's threat."""
    threat = next(iter(attacks.values())).threat
    return {name: attack for name, attack in attacks.items() if attack.threat == threat}


def refuse_doubts(reports: Iterable[Mapping[str, Any]]) -> None:
    """Raise `UnsoundEvaluation` unless every check in these reports passed."""
    checks = [check for report in reports for check in report.get("checks", ())]
    doubts = [check["sentence"] for check in checks if check["status"] != "pass"]
    if doubts:
        raise UnsoundEvaluation(" ".join(["The evaluation is not to be trusted:", *doubts]))
