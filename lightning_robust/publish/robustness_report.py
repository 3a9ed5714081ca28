"""What `evaluate` gives: accuracies under each threat, under all of them, and by radius."""

import io
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_robust.evaluation.accuracy_figures import accuracy_by_class, accuracy_by_radius
from lightning_robust.evaluation.accuracy_rows import accuracy
from lightning_robust.evaluation.calibration import calibration_report
from lightning_robust.evaluation.corruption_rows import again
from lightning_robust.evaluation.samples import Samples
from lightning_robust.publish.charts import radii_curve
from lightning_robust.publish.evaluations import RecordedEvaluation
from lightning_robust.publish.report_tables import accuracy_table, further_tables
from lightning_robust.threat import Threat
from lightning_robust.utils.writers import write_figures, write_json


class RobustnessReport:
    """The result of `evaluate`: how many images a net classifies correctly, and how many under each threat.

    What breaks an image within a radius breaks it within every larger one of the same norm, too. The accuracy under a
    threat therefore counts what any smaller radius found, and never rises with the radius. The union is the accuracy
    where each image meets all threats. Of a random net, whose accuracy is a mean over forward passes, neither holds:
    each threat stands for itself.

    Args:
        evaluations: one for each threat, all of the same images, by the threat as people write it.

    Example:
        >>> import lightning_robust as lr
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> x, y = torch.rand(20, 1, 2, 2), torch.arange(20) % 2
        >>> report = lr.evaluate(net, (x, y), ["linf 0.1", "linf 0.2"], "pgd10", check_samples=0)
        >>> report.accuracy("linf 0.2") <= report.accuracy("linf 0.1") <= report.accuracy()
        True
    """

    def __init__(self, evaluations: Mapping[str, RecordedEvaluation]) -> None:
        self.evaluations = dict(evaluations)

    def accuracy(self, threat: str | None = None) -> float:
        """Return the accuracy in [0, 1] under a threat, such as "linf 8/255"; without attacks by default.

        Raises:
            KeyError: for a threat that was not evaluated.
        """
        if threat is None:
            return float(self._first.right.double().mean())
        return float(self._worst(threat)["accuracy"])

    def _worst(self, threat: str) -> dict[str, Any]:
        """The accuracy under a threat with its interval; of a random net the mean over forward passes."""
        robust = self.robust(threat)
        told: dict[str, Any] = self.evaluations[threat].report["worst"]
        return told if "passes" in told else accuracy(int(robust.sum()), len(robust))

    def robust(self, threat: str) -> Tensor:
        """Mark the images [n] that are classified correctly within the radius, as far as the attacks tell.

        Raises:
            KeyError: for a threat that was not evaluated.
        """
        if threat not in self.evaluations:
            raise KeyError(f"{threat!r} was not evaluated; there are {', '.join(self.evaluations)}")
        return torch.stack([samples.robust() for samples in self._within(threat)]).all(0)

    def _within(self, threat: str) -> list[Samples]:
        """Return the samples under a threat and under those that it includes, of its norm at smaller radii."""
        asked = Threat.parse(threat)
        return [
            self._samples(name)
            for name in self.evaluations
            if (other := Threat.parse(name)).norm == asked.norm
            and other.eps <= asked.eps
            and asked.region in (None, other.region)
        ]

    def calibration(self, threat: str | None = None) -> dict[str, float | None]:
        """Return ECE, NLL and Brier score ("ece", "nll", "brier") in a threat's worst case; by default without attacks.

        Raises:
            KeyError: for a threat that was not evaluated, and for a random net's worst case.
        """
        if threat is None:
            return calibration_report([self._first], self._first.right)["clean"]  # type: ignore[no-any-return]
        robust = self.robust(threat)
        return calibration_report(self._within(threat), robust, self.random)["worst"]  # type: ignore[no-any-return]

    @property
    def random(self) -> bool:
        """Whether the net's logits differ between forward passes."""
        return any("passes" in evaluation.report["worst"] for evaluation in self.evaluations.values())

    @property
    def union(self) -> float:
        """The accuracy in [0, 1] where each image meets all threats; of a random net by the majority of its passes."""
        return float(torch.stack([self.robust(threat) for threat in self.evaluations]).all(0).double().mean())

    @property
    def sound(self) -> bool:
        """Whether every check of every evaluation passed."""
        return all(check["status"] == "pass" for e in self.evaluations.values() for check in e.report["checks"])

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The report as plain data: accuracies with counts and 95 % confidence intervals."""
        n = len(self._first)
        told: dict[str, Any] = {"n": n, "clean": accuracy(int(self._first.right.sum()), n), "threats": {}}
        for threat, evaluation in self.evaluations.items():
            told["threats"][threat] = {
                **self._worst(threat),
                "attacks": {
                    name: {key: value for key, value in row.items() if key not in ("stages", "attack")}
                    for name, row in evaluation.report["attacks"].items()
                },
                "checks": evaluation.report["checks"],
                **{name: evaluation.report[name] for name in ("targeted",) if name in evaluation.report},
            }
            if "corruptions" in evaluation.report:
                right, robust = self._first.right, self.robust(threat)
                told["threats"][threat]["corruptions"] = again(evaluation.report["corruptions"], right, robust)
        if any("calibration" in evaluation.report for evaluation in self.evaluations.values()):
            told["calibration"] = self.calibration()
            for threat, row in told["threats"].items() if not self.random else ():
                row["calibration"] = self.calibration(threat)
        if len(self.evaluations) > 1 and not self.random:
            told["union"] = accuracy(round(self.union * n), n)
        told["versions"] = next(iter(self.evaluations.values())).report["versions"]
        return told

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the summary as JSON, and write it to a file if one is named.

        Args:
            path: where to write; what was there is replaced.
        """
        if path is not None:
            write_json(self.summary, Path(path))
        return json.dumps(self.summary, indent=2)

    def table(self) -> Table:
        """Return the accuracies as a table that Rich prints, at most 80 columns wide."""
        return accuracy_table(self.summary)

    def tables(self) -> dict[str, Table]:
        """Return all tables by name: "accuracy", and "calibration", "targets" and the like if they were asked for."""
        return {"accuracy": self.table(), **further_tables(self.summary)}

    def doubts(self) -> list[str]:
        """Return a sentence for each check that did not pass."""
        told = [
            f"{threat}: {check['sentence']}"
            for threat, evaluation in self.evaluations.items()
            for check in evaluation.report["checks"]
            if check["status"] != "pass"
        ]
        return list(dict.fromkeys(told))

    def figures(self) -> dict[str, Figure]:
        """Draw accuracy by radius for each norm with several radii, and for each threat by radius and by class."""
        drawn = {}
        threats = {name: Threat.parse(name) for name in self.evaluations}
        for norm in dict.fromkeys(threat.norm for threat in threats.values() if threat.region is None):
            shown = [name for name, threat in threats.items() if threat.norm == norm and threat.region is None]
            if len(shown) > 1:
                rows = {threats[name].eps: self.summary["threats"][name] for name in shown}
                drawn[f"{norm}-radii"] = radii_curve({0.0: self.summary["clean"], **rows}, norm)
        for threat, evaluation in self.evaluations.items():
            attacks: Any = evaluation.attacks
            samples = self._samples(threat)
            for kind, figure in {
                "radius": accuracy_by_radius(samples, attacks),
                "classes": accuracy_by_class(samples, attacks, evaluation.classes),
            }.items():
                if figure is not None:
                    drawn[f"{slug(threat)}-{kind}"] = figure
        return drawn

    def save_figures(self, folder: str | Path, formats: Sequence[str] = ("png",)) -> list[Path]:
        """Write all figures into a folder.

        Args:
            folder: made if it is not there.
            formats: "png", "svg" or "pdf".

        Returns:
            The paths written.
        """
        return write_figures(self.figures(), folder, formats)

    def __str__(self) -> str:
        """Return the tables as text, and below them what did not pass."""
        console = Console(width=80, file=io.StringIO(), force_jupyter=False, force_terminal=False)  # text everywhere
        for table in self.tables().values():
            console.print(table)
        for doubt in self.doubts():
            console.print(doubt, markup=False, highlight=False)
        return str(console.file.getvalue())  # type: ignore[attr-defined]

    def _samples(self, threat: str) -> Samples:
        samples = self.evaluations[threat].samples
        assert samples is not None
        return samples

    @property
    def _first(self) -> Samples:
        return self._samples(next(iter(self.evaluations)))


def slug(threat: str) -> str:
    """Return a threat as part of a file's name.

    Example:
        >>> slug("linf 8/255")
        'linf-8-255'
    """
    return re.sub("[ /:]", "-", threat)
