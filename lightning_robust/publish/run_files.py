"""What a run left in its folder, and which other runs belong to it."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from lightning_robust.publish.evaluations import RecordedEvaluation, evaluations_in, evaluations_of, strongest
from lightning_robust.threat import Threat
from lightning_robust.utils.sha256 import file_sha256


@dataclass(frozen=True)
class Run:
    """A run's training, and the evaluations of its checkpoints.

    Args:
        folder: the folder that was asked about.
        trained: the folder of the training, which is the same for a `fit`; None where it cannot be found.
        evaluation: the evaluation to show, if there is one.
        others: all further evaluations of checkpoints of the same training.
    """

    folder: Path
    trained: Path | None
    evaluation: RecordedEvaluation | None
    others: list[RecordedEvaluation] = field(default_factory=list)

    @classmethod
    def read(cls, place: str | Path) -> "Run":
        """Find everything that belongs to a run.

        Of a folder of `test` or `evaluate`, its own evaluation is shown. Of a folder of `fit` it is the strongest one
        of its best checkpoint, at the threat of the training if there is one; evaluations are looked for in the
        folders beside it.

        Args:
            place: the folder of a run, or a `robustness.json` in one.

        Raises:
            ValueError: for a folder in which no run left anything.
        """
        path = Path(place)
        if path.is_file():
            chosen, folder = RecordedEvaluation.read(path), path.parent
        else:
            chosen, folder = None, path
        own = evaluations_in(folder) if folder.is_dir() else []
        fitted = (folder / "checkpoints").is_dir()
        if not own and not fitted and not (folder / "metrics.csv").is_file():
            raise ValueError(
                f"{str(place)!r} is no run: give a folder that `fit`, `test` or `evaluate` wrote, such as "
                "runs/Digits/AT/fit-<time>."
            )
        trained = folder if fitted else _trained(own)
        here, digests, related = folder.resolve(), _digests(trained), list(own)
        if trained is not None:
            beside = evaluations_of(set(digests.values()), (here.parent, trained.resolve().parent))
            related += [other for other in beside if other.path.parent.resolve() != here]
        if chosen is None:
            candidates = _of_best(related, digests, folder) if fitted else own
            chosen = strongest(candidates, _threat(folder / "config.yaml") if fitted else None)
        others = [evaluation for evaluation in related if chosen is None or evaluation.path != chosen.path]
        return cls(folder, trained, chosen, others)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration of `config_text`; empty without one."""
        loaded = yaml.safe_load(self.config_text or "")
        return loaded if isinstance(loaded, dict) else {}

    @cached_property
    def config_text(self) -> str | None:
        """The configuration of the training, or where it is unknown of the run itself, as it stands in its file."""
        for folder in (self.trained, self.folder):
            if folder is not None and (folder / "config.yaml").is_file():
                return (folder / "config.yaml").read_text()
        return None

    @cached_property
    def curves(self) -> dict[str, dict[int, float]]:
        """What the training logged: for each name, the last value of each epoch."""
        found: dict[str, dict[int, float]] = {}
        path = None if self.trained is None else self.trained / "metrics.csv"
        if path is None or not path.is_file():
            return found
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                for name, value in line.items():
                    if name not in ("epoch", "step") and value and line.get("epoch"):
                        found.setdefault(name, {})[int(float(line["epoch"]))] = float(value)
        return found

    @cached_property
    def checkpoint(self) -> Path | None:
        """The checkpoint that the shown evaluation is of, or else the training's best or last one, if it is there."""
        told = ((self.evaluation.report.get("checkpoint") or {}) if self.evaluation else {}).get("path")
        named = [] if not told else [Path(told)]
        if self.trained is not None:
            own = self.trained / "checkpoints"
            named += [*(own / path.name for path in named), *sorted(own.glob("best*.ckpt")), own / "last.ckpt"]
        return next((path for path in named if path.is_file()), None)

    @cached_property
    def radii(self) -> Tensor | None:
        """The radius of each training sample [n], of a method that keeps one (IAAT)."""
        if self.checkpoint is None:
            return None
        try:
            stored = torch.load(self.checkpoint, map_location="cpu", mmap=True, weights_only=True).get("radii")
        except Exception:  # another format, or damaged: the page says nothing of radii then
            return None
        values = stored.get("values") if isinstance(stored, dict) else None
        return values if isinstance(values, Tensor) else None


def _trained(evaluations: list[RecordedEvaluation]) -> Path | None:
    """The folder of the training whose checkpoint was evaluated."""
    for evaluation in evaluations:
        path = Path((evaluation.report.get("checkpoint") or {}).get("path", ""))
        if path.parent.name == "checkpoints" and path.parent.parent.is_dir():
            return path.parent.parent
    return None


def _digests(trained: Path | None) -> dict[Path, str]:
    """The SHA-256 of each checkpoint of a training."""
    checkpoints = [] if trained is None else sorted((trained / "checkpoints").glob("*.ckpt"))
    return {path: file_sha256(path) for path in checkpoints}


def _of_best(
    evaluations: list[RecordedEvaluation], digests: Mapping[Path, str], trained: Path
) -> list[RecordedEvaluation]:
    """Keep the evaluations of the best checkpoint, or else of any, and those that the training itself left."""
    best = {digest for path, digest in digests.items() if path.name.startswith("best")}
    wanted = best if any(each.checkpoint in best for each in evaluations) else set(digests.values())
    return [each for each in evaluations if each.checkpoint in wanted or each.path.parent == trained]


def _threat(config: Path) -> str | None:
    """Return the threat of a training as people write it; None if the configuration does not say."""
    try:
        told = yaml.safe_load(config.read_text())["model"]["init_args"]["attack"]["init_args"]["threat"]
        return str(Threat(**told))
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return None
