"""The results of an evaluation: `robustness.json`, `samples.csv` and a table."""

import csv
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich import get_console
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from lightning_robust.attacks.base import Attack
from lightning_robust.evaluation.check import Check
from lightning_robust.evaluation.random_nets import PASSES
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.stages import named_stages
from lightning_robust.evaluation.verdicts import STANDING, Verdicts
from lightning_robust.metrics.functional import wilson_interval
from lightning_robust.threat import Threat
from lightning_robust.utils.checks import file_sha256
from lightning_robust.utils.files import atomic_write

PACKAGES = ("lightning-robust", "lightning", "torch", "torchvision", "torchmetrics")


def accuracy(correct: int, n: int) -> dict[str, Any]:
    """Turn a count into an accuracy with its 95 % confidence interval (Wilson).

    Args:
        correct: the number of samples classified correctly.
        n: the number of all samples, > 0.

    Example:
        >>> accuracy(3, 4)["accuracy"], [round(bound, 2) for bound in accuracy(3, 4)["confidence_interval"]]
        (0.75, [0.3, 0.95])
    """
    return {"accuracy": correct / n, "correct": correct, "confidence_interval": list(wilson_interval(correct, n))}


def mean_accuracy(shares: Tensor) -> dict[str, Any]:
    """Turn the shares of forward passes in which a random net is right on each sample [n] into its accuracy.

    The interval is that of as many samples with a fixed answer each, which vary more.

    Example:
        >>> mean_accuracy(torch.tensor([1.0, 0.5, 0.0, 0.5]))["accuracy"]
        0.5
    """
    n, right = len(shares), float(shares.double().sum())
    return {
        "accuracy": right / n,
        "correct": round(right, 2),
        "confidence_interval": list(wilson_interval(right, n)),
        "passes": PASSES,
    }


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
    threats = list(dict.fromkeys(attack.threat for attack in attacks.values()))
    return {
        **about,
        "n": n,
        "threat": vars(threats[0]) if len(threats) == 1 else [vars(threat) for threat in threats],
        "clean": {**accuracy(int(samples.right.sum()), n), "seconds": seconds["clean"]},
        "attacks": {name: _attack(samples, name, attack, seconds) for name, attack in attacks.items()},
        "worst": _worst(samples),
        "checks": [check._asdict() for check in checks],
        "versions": versions(),
    }


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


def sample_rows(
    samples: Samples, attacks: Mapping[str, Attack], indexed: bool = True
) -> tuple[list[str], list[list[Any]]]:
    """Build the head and the lines of `samples.csv`, one line a sample.

    For each attack they tell the stage that broke the sample, the class predicted on the last example made from it, and
    the size of that example's perturbation.

    Args:
        samples: all samples, with what `Evaluation` found.
        attacks: the attacks by name.
        indexed: whether it is known where the samples stand in the dataset; otherwise their index is left empty.
    """
    index = samples.index.tolist() if indexed else [""] * len(samples)
    head, values = ["index", "label", "clean"], [index, samples.y.tolist(), samples.clean.tolist()]
    for name, attack in attacks.items():
        verdicts, names = samples.verdicts[name], [stage.name for stage in named_stages(name, attack)]
        head += [f"{name}/broken_by", f"{name}/class", f"{name}/size"]
        values.append(["" if number == STANDING else names[number] for number in verdicts.broken.tolist()])
        values.append(verdicts.predicted.tolist())
        values.append([f"{size:.6g}" for size in verdicts.size.tolist()])
    head.append("robust")
    values.append(samples.robust().long().tolist())
    return head, [list(line) for line in zip(*values, strict=True)]


def describe(attack: Attack) -> dict[str, Any]:
    """Describe an attack by its class and settings as plain data, attacks within it included.

    Example:
        >>> from lightning_robust.attacks import PGD
        >>> describe(PGD(Threat("l2", 0.5), steps=20))["steps"]
        20
    """
    return {"class": type(attack).__name__, **{k: _plain(v) for k, v in vars(attack).items() if not k.startswith("_")}}


def table(report: Mapping[str, Any], title: str) -> Table:
    """Lay out the report of `robustness` as a table for the terminal, at most 80 columns wide."""
    out = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    out.add_column("evaluation", no_wrap=True, max_width=24)  # the others take up to 56
    for head in ("accuracy", "95 % interval", "correct", "seconds"):
        out.add_column(head, justify="right", no_wrap=True)

    def add(label: str, row: Mapping[str, Any], style: str | None = None) -> None:
        low, high = row["confidence_interval"]
        seconds = f"{row['seconds']:.1f}" if "seconds" in row else ""
        cells = (f"{row['accuracy']:.2%}", f"{low:.1%} to {high:.1%}", f"{row['correct']}/{report['n']}", seconds)
        out.add_row(label, *cells, style=style)

    add("clean", report["clean"])
    for name, row in report["attacks"].items():
        for stage in row.get("stages", ()):
            add(f"  after {stage['name'].removeprefix(f'{name}/')}", stage, style="dim")
        add(f"{name} ({Threat(**row['attack']['threat'])})", row)
    add("worst case", report["worst"], style="bold")
    return out


def print_table(report: Mapping[str, Any], title: str) -> None:
    """Print the table of a report, and below it a training at another threat and each check that did not pass."""
    console = get_console()  # where a Rich progress bar draws: printed above it, not into it
    console.print(table(report, title))
    if "trained_at" in report:
        console.print(f"trained at {report['trained_at']}, evaluated at {_threats(report)}", highlight=False)
    if "passes" in report["worst"]:
        told = f"a random net: the mean over {report['worst']['passes']} new forward passes on the examples found"
        console.print(told, highlight=False)
    print_doubts(report["checks"])


def print_doubts(checks: Iterable[Mapping[str, Any]]) -> None:
    """Print a line for each check that did not pass."""
    console = get_console()
    for check in checks:
        if check["status"] != "pass":
            style = {"warn": "yellow", "fail": "bold red"}[check["status"]]
            console.print(f"{check['status']}: {check['sentence']}", style=style, markup=False, highlight=False)


def _threats(report: Mapping[str, Any]) -> str:
    """Name the threats of all attacks."""
    told = report["threat"]
    return " and ".join(str(Threat(**threat)) for threat in (told if isinstance(told, list) else [told]))


def write_json(report: Mapping[str, Any], path: Path) -> None:
    """Write a report to a JSON file atomically: nobody ever reads half a file."""
    with atomic_write(path) as beside, beside.open("w") as file:
        json.dump(report, file, indent=2)
        file.write("\n")


def write_csv(head: Sequence[str], lines: Iterable[Sequence[Any]], path: Path) -> None:
    """Write a head and lines to a CSV file atomically."""
    with atomic_write(path) as beside, beside.open("w", newline="") as file:
        csv.writer(file).writerows([head, *lines])


def evaluated_in(trainer: Any) -> dict[str, Any]:
    """Return the stage, the epoch and the checkpoint that a Lightning trainer is evaluating."""
    return {
        "stage": str(trainer.state.fn.value) if trainer.state.fn else None,
        "epoch": trainer.current_epoch,
        "checkpoint": checkpoint_identity(trainer.ckpt_path if trainer.state.fn != "fit" else None),
    }


def checkpoint_identity(path: str | Path | None) -> dict[str, str] | None:
    """Return the path and the SHA-256 of a checkpoint; the path alone if it is no local file, None without one."""
    if not path:
        return None
    if not Path(path).is_file():  # a checkpoint that is sharded or remote
        return {"path": str(path)}
    return {"path": str(path), "sha256": file_sha256(path)}


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that a result depends on; None for one not installed."""
    return {**{name: _version(name) for name in PACKAGES}, "python": platform.python_version()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # used from a source tree
        return None


def _plain(value: Any) -> Any:
    """Turn a value into what JSON can hold; functions and other objects become their names."""
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
