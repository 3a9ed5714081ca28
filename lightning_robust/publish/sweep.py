"""Results at many radii from one run of attacks that look for the nearest adversarial example."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

from lightning_robust.attacks import Attack
from lightning_robust.evaluation.calibration import calibration_report
from lightning_robust.evaluation.corruption_rows import again
from lightning_robust.evaluation.report import robustness
from lightning_robust.evaluation.sample_rows import sample_rows
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.threats import under_threat
from lightning_robust.evaluation.verdicts import STANDING
from lightning_robust.publish.evaluations import RecordedEvaluation
from lightning_robust.threat import Threat
from lightning_robust.utils.writers import write_csv, write_json

OWN = ("n", "threat", "clean", "attacks", "worst", "checks", "versions", "calibration", "corruptions")
"""What a report says of its own threat, or `robustness` writes anew."""


def narrowed(
    ran: RecordedEvaluation, attacks: Mapping[str, Attack], threat: Threat, path: Path | None, indexed: bool
) -> RecordedEvaluation | None:
    """Return the evaluation at a smaller radius that a run decides, and write its files; None for a random net.

    Whether an example breaks a random net is measured on examples within the radius, so each radius needs its own run.

    Args:
        ran: at the largest radius, by attacks that look for the nearest example.
        attacks: those of the run.
        threat: with the smaller radius.
        path: where rank 0 writes its `robustness.json`; None writes nothing.
        indexed: whether it is known where the samples stand in the dataset.
    """
    assert ran.samples is not None
    if "passes" in ran.report["worst"]:
        return None
    samples, here = within(ran.samples, threat.eps), under_threat(attacks, None, threat)
    made = RecordedEvaluation.of(path or ran.path, report_within(ran.report, samples, here), samples)
    if path is not None:
        _write(made, here, indexed)
    return made


@rank_zero_only
def _write(made: RecordedEvaluation, attacks: Mapping[str, Attack], indexed: bool) -> None:
    assert made.samples is not None
    write_json(made.report, made.path)
    write_csv(*sample_rows(made.samples, attacks, indexed), made.beside("samples", ".csv"))


def sweeps(threats: Mapping[str, Threat], attacks: Mapping[str, Attack]) -> dict[str, list[str]]:
    """Return for each run, named after its threat, the names of all threats whose results it gives.

    If every attack looks for the nearest example, the run at the largest radius of a norm decides all smaller ones.

    Args:
        threats: by name.
        attacks: by name; without any, each threat is a run of its own.

    Example:
        >>> from lightning_robust.attacks import FAB, PGD
        >>> threats = {name: Threat.parse(name) for name in ("linf 0.1", "linf 0.2", "l2 1")}
        >>> sweeps(threats, {"fab": FAB()})
        {'linf 0.2': ['linf 0.1', 'linf 0.2'], 'l2 1': ['l2 1']}
        >>> list(sweeps(threats, {"fab": FAB(), "pgd": PGD()}))
        ['linf 0.1', 'linf 0.2', 'l2 1']
    """
    if not attacks or not all(attack.minimizes for attack in attacks.values()):
        return {name: [name] for name in threats}
    alike: dict[Threat, list[str]] = {}
    for name, threat in threats.items():
        alike.setdefault(replace(threat, eps=0.0), []).append(name)
    return {max(names, key=lambda name: threats[name].eps): names for names in alike.values()}


def within(samples: Samples, eps: float) -> Samples:
    """Return samples as if the radius had been smaller: what is broken by a larger change only stands.

    Args:
        samples: after attacks that look for the nearest example, at a radius of at least `eps`.
        eps: the smaller radius.
    """
    verdicts = {}
    for name, found in samples.verdicts.items():
        near = found.size <= eps
        broken = torch.where(near, found.broken, STANDING)
        scores = torch.where((broken != STANDING)[:, None], found.scores, samples.scores)
        verdicts[name] = replace(found, broken=broken, scores=scores)
    return replace(samples, verdicts=verdicts)


def report_within(report: Mapping[str, Any], samples: Samples, attacks: Mapping[str, Attack]) -> dict[str, Any]:
    """Return the content of `robustness.json` at a smaller radius than the run's.

    It has no checks: they are of the radius that was run, which "swept_from" names.

    Args:
        report: that of the run.
        samples: as `within` gives them.
        attacks: those of the run, at the smaller radius.
    """
    seconds = {name: row["seconds"] for name, row in {"clean": report["clean"], **report["attacks"]}.items()}
    about = {key: value for key, value in report.items() if key not in OWN}
    about["swept_from"] = str(Threat(**report["threat"]))
    told = robustness(samples, attacks, seconds, [], about)
    if "corruptions" in report:
        told["corruptions"] = again(report["corruptions"], samples.right, samples.robust())
    if "calibration" in report:
        told["calibration"] = calibration_report([samples], samples.robust())
    return told
