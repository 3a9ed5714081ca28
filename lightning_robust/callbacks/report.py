"""What an evaluation leaves behind: `robustness.json` and a table."""

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lightning_robust.attacks.base import Attack
from lightning_robust.metrics.functional import wilson_interval
from lightning_robust.threat import Threat

PACKAGES = ("lightning-robust", "lightning", "torch", "torchvision", "torchmetrics")


def accuracy(correct: int, n: int) -> dict[str, Any]:
    """A count as a proportion with its 95 % confidence interval (Wilson)."""
    return {"accuracy": correct / n, "correct": correct, "confidence_interval": list(wilson_interval(correct, n))}


def robustness(
    counts: Mapping[str, int],
    attacks: Mapping[str, Attack],
    seconds: Mapping[str, float],
    perturbations: Mapping[str, Mapping[str, float]],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of `robustness.json`.

    Args:
        counts: correct samples under "clean", each attack and "worst", and "n".
        attacks: the attacks by name.
        seconds: time each attack took, under its name, and "clean".
        perturbations: mean and maximum size of each attack's perturbations.
        about: whatever identifies the run: stage, epoch, checkpoint, seed, devices.
    """
    n = counts["n"]
    threats = {json.dumps(vars(attack.threat)): vars(attack.threat) for attack in attacks.values()}
    return {
        **about,
        "n": n,
        "threat": next(iter(threats.values())) if len(threats) == 1 else list(threats.values()),
        "clean": {**accuracy(counts["clean"], n), "seconds": seconds["clean"]},
        "attacks": {
            name: {
                **accuracy(counts[name], n),
                "seconds": seconds[name],
                "perturbation": dict(perturbations[name]),
                "attack": describe(attack),
            }
            for name, attack in attacks.items()
        },
        "worst": accuracy(counts["worst"], n),
        "versions": {**{name: _version(name) for name in PACKAGES}, "python": platform.python_version()},
    }


def describe(attack: Attack) -> dict[str, Any]:
    """An attack's class and settings as plain values, those of attacks within it included."""
    return {"class": type(attack).__name__, **{k: _plain(v) for k, v in vars(attack).items() if not k.startswith("_")}}


def table(report: Mapping[str, Any], title: str) -> Table:
    """The report as a table for the terminal."""
    out = Table(title=title)
    for head in ("evaluation", "accuracy", "95 % interval", "correct", "seconds"):
        out.add_column(head, justify="left" if head == "evaluation" else "right")
    rows = {"clean": report["clean"], **report["attacks"], "worst case": report["worst"]}
    for name, row in rows.items():
        low, high = row["confidence_interval"]
        seconds = f"{row['seconds']:.1f}" if "seconds" in row else ""
        label = name
        if "attack" in row:
            threat = row["attack"]["threat"]
            label += f" ({threat['norm']} {threat['eps']:.4g})"
        cells = (f"{row['accuracy']:.2%}", f"{low:.2%} to {high:.2%}", f"{row['correct']}/{report['n']}", seconds)
        out.add_row(label, *cells, style="bold" if name == "worst case" else None)
    return out


def print_table(report: Mapping[str, Any], title: str) -> None:
    """Print the report's table."""
    Console().print(table(report, title))


def write_json(report: Mapping[str, Any], path: Path) -> None:
    """Write atomically: a reader, or a crash, never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        json.dump(report, file, indent=2)
        file.write("\n")
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def checkpoint_identity(path: str | Path | None) -> dict[str, str] | None:
    """Which weights were evaluated: the file's path and SHA-256; None if none was loaded."""
    if not path:
        return None
    if not Path(path).is_file():  # a sharded or remote checkpoint
        return {"path": str(path)}
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return {"path": str(path), "sha256": digest.hexdigest()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # used from a source tree
        return None


def _plain(value: Any) -> Any:
    """What JSON can hold; of functions and other objects only the name."""
    if isinstance(value, Attack):
        return describe(value)
    if isinstance(value, Threat):
        return vars(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, "__qualname__", type(value).__name__)
