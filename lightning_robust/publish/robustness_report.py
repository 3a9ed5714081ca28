"""What `evaluate` gives: accuracies under each threat, under all of them, and by radius."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_robust.evaluation.accuracy_figures import accuracy_by_class, accuracy_by_radius
from lightning_robust.evaluation.accuracy_rows import accuracy
from lightning_robust.evaluation.samples import Samples
from lightning_robust.publish.charts import radii_curve
from lightning_robust.publish.evaluations import RecordedEvaluation
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
        asked = Threat.parse(threat)
        smaller = [
            self._samples(name)
            for name in self.evaluations
            if (other := Threat.parse(name)).norm == asked.norm and other.eps <= asked.eps
        ]
        return torch.stack([samples.robust() for samples in smaller]).all(0)

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
            }
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
        out = Table(title=f"{self.summary['n']} images", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        out.add_column("threat", no_wrap=True)
        out.add_column("attack", no_wrap=True, max_width=24)
        for head in ("accuracy", "95 % interval", "correct"):
            out.add_column(head, justify="right", no_wrap=True)
        for threat, attack, row, bold in self._rows():
            low, high = row["confidence_interval"]
            cells = f"{row['accuracy']:.2%}", f"{low:.1%} to {high:.1%}", f"{row['correct']}/{self.summary['n']}"
            out.add_row(threat, attack, *cells, style="bold" if bold else None)
        return out

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
        for norm in dict.fromkeys(Threat.parse(threat).norm for threat in self.evaluations):
            shown = [threat for threat in self.evaluations if Threat.parse(threat).norm == norm]
            if len(shown) > 1:
                rows = {Threat.parse(threat).eps: self.summary["threats"][threat] for threat in shown}
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
        """Return the table as text, and below it what did not pass."""
        console = Console(width=80, file=io.StringIO(), force_jupyter=False, force_terminal=False)  # text everywhere
        console.print(self.table())
        for doubt in self.doubts():
            console.print(doubt, markup=False, highlight=False)
        return str(console.file.getvalue())  # type: ignore[attr-defined]

    def _rows(self) -> Iterator[tuple[str, str, Mapping[str, Any], bool]]:
        yield "", "none", self.summary["clean"], False
        for threat, told in self.summary["threats"].items():
            for name, row in told["attacks"].items():
                yield threat, name, row, False
            yield threat, "worst case", told, True
        if "union" in self.summary:
            yield "all of them", "worst case", self.summary["union"], True

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
    return threat.replace(" ", "-").replace("/", "-")
