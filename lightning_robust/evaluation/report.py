"""The content of `robustness.json`: the accuracies of an evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lightning_robust.attacks.base import Attack
from lightning_robust.evaluation.accuracy_rows import accuracy, finite, mean_accuracy
from lightning_robust.evaluation.check import Check
from lightning_robust.evaluation.description import describe
from lightning_robust.evaluation.optimality import optimalities
from lightning_robust.evaluation.provenance import versions
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.stages import named_stages
from lightning_robust.evaluation.verdicts import Verdicts


def robustness(
    samples: Samples,
    attacks: Mapping[str, Attack],
    seconds: Mapping[str, float],
    checks: Sequence[Check],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Build the content of `robustness.json`.

    Args:
        samples: all samples, with what `Evaluation` found.
        attacks: the attacks by name.
        seconds: the time that each stage took, by its name, and that the clean predictions took, as "clean".
        checks: the results of the checks of the evaluation itself, see `examine`.
        about: entries that identify the run: stage, epoch, checkpoint, seed, devices; as "trained_at" the threat of the
            training as text, where the attacks have another one.
    """
    n = len(samples)
    nearest = {} if any(map(_is_random, samples.verdicts.values())) else optimalities(samples, attacks)
    threats = list(dict.fromkeys(attack.threat for attack in attacks.values()))
    return {
        **about,
        "n": n,
        "threat": vars(threats[0]) if len(threats) == 1 else [vars(threat) for threat in threats],
        "clean": {**accuracy(int(samples.right.sum()), n), "seconds": seconds["clean"]},
        "attacks": {
            name: {
                **_attack(samples, name, attack, seconds),
                **({"optimality": finite(nearest[name])} if name in nearest else {}),
            }
            for name, attack in attacks.items()
        },
        "worst": _worst(samples),
        "checks": [check._asdict() for check in checks],
        "versions": versions(),
    }


def logged_values(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a report that loggers are told, by name; those that are not finite are left out.

    Example:
        >>> row = {"accuracy": 0.5}
        >>> logged_values({"clean": row, "attacks": {"pgd": row}, "worst": row, "calibration": {"clean": {"ece": 0.1}}})
        {'clean_acc': 0.5, 'pgd_acc': 0.5, 'worst_acc': 0.5, 'clean_ece': 0.1}
    """
    rows = {"clean": report["clean"], **report["attacks"], "worst": report["worst"]}
    values = {f"{name}_acc": row["accuracy"] for name, row in rows.items()}
    for name, row in report.get("calibration", {}).items():
        values |= {f"{name}_{key}": value for key, value in row.items() if value is not None}
    return values


def _worst(samples: Samples) -> dict[str, Any]:
    """Give the accuracy where each sample meets, of all attacks, the one that it withstands least."""
    if not samples.verdicts or not all(_is_random(verdicts) for verdicts in samples.verdicts.values()):
        return accuracy(int(samples.robust().sum()), len(samples))
    held, shares = (torch.stack([getattr(v, name) for v in samples.verdicts.values()]) for name in ("held", "accuracy"))
    return mean_accuracy(shares.gather(0, held.argmin(0, keepdim=True))[0])


def _is_random(verdicts: Verdicts) -> bool:
    return bool(len(verdicts.accuracy)) and not bool(verdicts.accuracy.isnan().any())


def _attack(samples: Samples, name: str, attack: Attack, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Describe one attack: the accuracy under it, and after each of its stages (not of a random net)."""
    right, verdicts = samples.right, samples.verdicts[name]
    sizes = verdicts.size[right & (verdicts.size > 0) & verdicts.size.isfinite()]
    parts = [stage.name for stage in named_stages(name, attack)]
    after = [int((right & (verdicts.standing | (verdicts.broken > number))).sum()) for number in range(len(parts))]
    rows = [
        {"name": part, **accuracy(correct, len(right)), "seconds": seconds[part]}
        for part, correct in zip(parts, after, strict=True)
    ]
    random = _is_random(verdicts)
    return {
        **(mean_accuracy(verdicts.accuracy) if random else accuracy(after[-1], len(right))),
        "seconds": sum(seconds[part] for part in parts),
        "perturbation": {"mean": float(sizes.mean()), "max": float(sizes.max())} if len(sizes) else None,
        "attack": describe(attack),
        **({"stages": rows} if attack.stages and not random else {}),
    }
