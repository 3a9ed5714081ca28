"""Finished evaluations, read back from the files that they left."""

import csv
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import lightning_robust.attacks
from lightning_robust.evaluation.images import Images
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.verdicts import STANDING, Verdicts
from lightning_robust.threat import Threat
from lightning_robust.utils.messages import describe_error

PATTERN = "*robustness*.json"
"""The names of the files that evaluations leave; one for each evaluation and data loader."""


@dataclass(frozen=True)
class RecordedAttack:
    """An attack as a report describes it.

    Args:
        threat: what it was run at.
        stages: the names of its stages, in the order in which they ran.
        minimizes: whether it looks for the nearest example, of whatever size.
    """

    threat: Threat
    stages: tuple[str, ...]
    minimizes: bool


@dataclass(frozen=True)
class RecordedEvaluation:
    """An evaluation as its files tell it.

    Args:
        path: its `robustness.json`, whose name may begin with the evaluation's and end in the loader's number.
        report: the content of that file.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "robustness.json")
        >>> size = path.write_text('{"n": 2, "clean": {}, "attacks": {}, "worst": {}, "checks": []}')
        >>> RecordedEvaluation.read(path).report["n"]
        2
    """

    path: Path
    report: Mapping[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> "RecordedEvaluation":
        """Read the evaluation that a `robustness.json` tells of.

        Raises:
            ValueError: for a file that is none.
        """
        try:
            report = json.loads(Path(path).read_text())
            missing = {"n", "clean", "attacks", "worst", "checks"} - report.keys()
        except (OSError, ValueError, AttributeError) as error:
            raise ValueError(f"{str(path)!r} cannot be read as a robustness.json ({describe_error(error)})") from error
        if missing:
            raise ValueError(f"{str(path)!r} is no robustness.json: it has no {', '.join(sorted(missing))}.")
        return cls(Path(path), report)

    @classmethod
    def of(cls, path: Path, report: Mapping[str, Any], samples: Samples) -> "RecordedEvaluation":
        """Return an evaluation that this process has made, so that no file has to be read.

        Args:
            path: where its `robustness.json` lies, if one was written.
            report: the content of that file.
            samples: what was found about each sample.
        """
        made = cls(path, json.loads(json.dumps(report)))
        vars(made)["samples"] = samples  # where `cached_property` looks first
        return made

    @property
    def checkpoint(self) -> str | None:
        """The SHA-256 of the checkpoint that was evaluated, if the report tells it."""
        return (self.report.get("checkpoint") or {}).get("sha256")

    @property
    def threats(self) -> list[str]:
        """The threats of all attacks as people write them, such as "linf 8/255", in the order of the attacks."""
        return list(dict.fromkeys(str(attack.threat) for attack in self.attacks.values()))

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes, if the data have some."""
        return self.report.get("classes")

    @cached_property
    def class_names(self) -> list[str]:
        """The name of each class that occurs; its number where the data have none."""
        samples, known = self.samples, self.classes or []
        if samples is None:
            return known
        columns = (samples.y, samples.clean, *(verdicts.predicted for verdicts in samples.verdicts.values()))
        most = max((int(column.max()) for column in columns if len(column)), default=-1)
        return [*known, *map(str, range(len(known), most + 1))]

    @cached_property
    def attacks(self) -> dict[str, RecordedAttack]:
        """The attacks that were run, by their names."""
        found = {}
        for name, row in self.report["attacks"].items():
            told = row["attack"]
            kind = getattr(lightning_robust.attacks, told["class"], object)
            stages = tuple(f"{name}/{stage}" for stage in told.get("attacks", ())) or (name,)
            found[name] = RecordedAttack(Threat(**told["threat"]), stages, getattr(kind, "minimizes", False))
        return found

    def beside(self, kind: str, ending: str) -> Path:
        """Return the path of another file of the same evaluation, such as its `samples` with the ending `.csv`."""
        before, _, after = self.path.stem.rpartition("robustness")
        return self.path.with_name(f"{before}{kind}{after}{ending}")

    @cached_property
    def samples(self) -> Samples | None:
        """What was found about each sample, without images; None if no `samples.csv` lies beside the report.

        Raises:
            ValueError: for a file that does not belong to the report.
        """
        path = self.beside("samples", ".csv")
        if not path.is_file():
            return None
        with path.open(newline="") as file:
            head, *lines = csv.reader(file)
        columns = dict(zip(head, zip(*lines, strict=True), strict=True)) if lines else {name: () for name in head}
        try:
            return self._samples(columns)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} does not belong to {self.path.name} ({describe_error(error)})") from error

    def _samples(self, columns: Mapping[str, tuple[str, ...]]) -> Samples:
        def integers(name: str) -> torch.Tensor:
            return torch.tensor([int(value) for value in columns[name]], dtype=torch.int64)

        y, n = integers("label"), len(columns["label"])
        if n != self.report["n"]:
            raise ValueError(f"{n} lines for {self.report['n']} samples")
        index = integers("index") if all(columns["index"]) else torch.arange(n)
        samples = Samples(index, y, integers("clean"), index, index, index < 0, Images.none(n))
        for name, attack in self.attacks.items():
            number = {stage: i for i, stage in enumerate(attack.stages)} | {"": STANDING}
            broken = torch.tensor([number[stage] for stage in columns[f"{name}/broken_by"]], dtype=torch.int64)
            size = torch.tensor([float(value) for value in columns[f"{name}/size"]], dtype=torch.float64)
            done = torch.full_like(broken, len(attack.stages))
            samples.verdicts[name] = Verdicts(done, broken, integers(f"{name}/class"), size)
        return samples


def evaluations_in(folder: Path) -> list[RecordedEvaluation]:
    """Read every evaluation that lies in a folder, by name; files that are no reports are left out."""
    found = []
    for path in sorted(folder.glob(PATTERN)):
        try:
            found.append(RecordedEvaluation.read(path))
        except ValueError:
            continue
    return found


def evaluations_of(checkpoints: Collection[str], places: Iterable[Path]) -> list[RecordedEvaluation]:
    """Read every evaluation of these checkpoints that lies in a folder of a run.

    Args:
        checkpoints: the SHA-256 of each.
        places: folders that hold folders of runs; one that stands there twice is read once.
    """
    runs = [run for place in dict.fromkeys(places) for run in sorted(place.glob("*")) if run.is_dir()]
    found = [evaluation for run in runs for evaluation in evaluations_in(run)]
    return [evaluation for evaluation in found if evaluation.checkpoint in checkpoints]


def strongest(evaluations: Iterable[RecordedEvaluation], threat: str | None = None) -> RecordedEvaluation | None:
    """Return the evaluation that says most: of the test set rather than validation, of most samples, the lowest result.

    Args:
        evaluations: of one checkpoint.
        threat: as people write it; those at this threat come before all others, which cannot be compared with them.
    """

    def rank(evaluation: RecordedEvaluation) -> tuple[bool, bool, bool, int, float]:
        report = evaluation.report
        return (
            threat is not None and evaluation.threats == [threat],
            report.get("stage") == "test",
            bool(report["attacks"]),
            report["n"],
            -report["worst"]["accuracy"],
        )

    return max(evaluations, key=rank, default=None)
