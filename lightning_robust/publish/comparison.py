"""Runs side by side: only what was measured at the same threat, on the same images, is put into one table."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_robust.publish.evaluations import RecordedEvaluation, strongest
from lightning_robust.publish.paired_test import Paired, mcnemar
from lightning_robust.publish.run_files import Run


class Entry(NamedTuple):
    """A run in a comparison.

    Args:
        name: by which the run is called, the shortest that tells it from the others.
        evaluation: the strongest one of the run at the table's threat.
        config: of its training.
    """

    name: str
    evaluation: RecordedEvaluation
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """Runs that were evaluated at the same threats on as many images of the same kind.

    Args:
        threats: as people write them.
        stage: "test", "validate" or "fit".
        n: the number of images.
        entries: the runs, in the order in which they were given.
    """

    threats: str
    stage: str
    n: int
    entries: list[Entry]

    @property
    def title(self) -> str:
        """What the runs have in common."""
        kind = "test" if self.stage == "test" else "validation"
        return f"{self.threats or 'no attack'}, {self.n} {kind} images"

    @property
    def doubts(self) -> list[str]:
        """The caveats about comparing the rows, one sentence each."""
        told = []
        if not self.same_attacks:
            told.append(
                "The attacks or their settings differ: robust accuracy under weaker attacks is only an upper bound, "
                "and is not tested against the others."
            )
        if len(self.entries) > 1 and not self.same_images:
            told.append("The images differ, or are not known to be the same, so there are no paired tests.")
        for entry in self.entries:
            bad = [check["name"] for check in entry.evaluation.report["checks"] if check["status"] != "pass"]
            if bad:
                told.append(f"Checks of {entry.name} did not pass ({', '.join(bad)}).")
        return told

    @property
    def same_images(self) -> bool:
        """Whether all runs were evaluated on the same images, as far as their files tell."""
        first, *others = (_identity(entry.evaluation) for entry in self.entries)
        return first is not None and all(other is not None and _equal(first, other) for other in others)

    @property
    def same_attacks(self) -> bool:
        """Whether all runs were evaluated under the same attacks with the same settings."""
        reports = [entry.evaluation.report for entry in self.entries]
        used = [([row["attack"] for row in r["attacks"].values()], r.get("precision")) for r in reports]
        first, *others = used
        return all(other == first for other in others)

    def differences(self) -> dict[str, list[str]]:
        """List the settings of model, data and trainer that differ between the runs, with each run's value."""
        flat = [dict(_flat(entry.config)) for entry in self.entries]
        keys = dict.fromkeys(key for settings in flat for key in settings)
        values = {key: [str(settings.get(key, "")) for settings in flat] for key in keys}
        return {key: told for key, told in values.items() if len(set(told)) > 1}

    def paired(self) -> list[Paired]:
        """Test every two runs against each other; nothing where the images differ."""
        if len(self.entries) < 2 or not self.same_images:
            return []
        found = []
        for one, two in combinations(self.entries, 2):
            for measure in ("clean", "robust") if self.threats and self.same_attacks else ("clean",):
                a, b = (_right(entry.evaluation, measure) for entry in (one, two))
                only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
                p = mcnemar(only_first, only_second)
                found.append(Paired(one.name, two.name, measure, only_first, only_second, p))
        return found


def compare(runs: Sequence[str]) -> list[Group]:
    """Read runs and group their evaluations by what can be compared.

    Of each run the strongest evaluation at each threat is taken, one of the test set before one of validation.

    Args:
        runs: folders of runs, or `robustness.json` files.

    Returns:
        The groups, those with most runs first.

    Raises:
        ValueError: for a folder that is no run, or one without any evaluation.
    """
    groups: dict[tuple[str, str, int, Any], list[Entry]] = {}
    for name, place in zip(short_names(runs), runs, strict=True):
        run = Run.read(place)
        found = list(_by_threat(run))
        if not found:
            raise ValueError(f"{place!r} holds no evaluation: run `lightning-robust test` on its checkpoint first.")
        for evaluation in found:
            key = (" and ".join(evaluation.threats), _stage(evaluation), evaluation.report["n"], _boxes(evaluation))
            groups.setdefault(key, []).append(Entry(name, evaluation, run.config))
    made = [Group(threats, stage, n, entries) for (threats, stage, n, _), entries in groups.items()]
    return sorted(made, key=lambda group: -len(group.entries))


def short_names(runs: Sequence[str]) -> list[str]:
    """Return names for folders: without the parts that all of them begin with.

    Example:
        >>> short_names(["runs/Digits/AT/fit-1", "runs/Digits/TRADES/fit-2"])
        ['AT/fit-1', 'TRADES/fit-2']
        >>> short_names(["runs/a", "runs/a"])
        ['a', 'a (2)']
    """
    parts = [Path(run).parts for run in runs]
    common = 0
    while all(len(part) > common + 1 for part in parts) and len({part[common] for part in parts}) == 1:
        common += 1
    names: list[str] = []
    for part in parts:
        name = "/".join(part[common:])
        again = sum(other == name or other.startswith(f"{name} (") for other in names)
        names.append(f"{name} ({again + 1})" if again else name)
    return names


def _by_threat(run: Run) -> Iterable[RecordedEvaluation]:
    """Give the run's strongest evaluation at each threat, those of one checkpoint alone."""
    own = [] if run.evaluation is None else [run.evaluation]
    here, shown = run.folder.resolve(), None if run.evaluation is None else run.evaluation.checkpoint
    own += [
        other
        for other in run.others
        if (run.trained == run.folder and other.checkpoint == shown) or other.path.resolve().parent == here
    ]
    threats = list(dict.fromkeys(tuple(evaluation.threats) for evaluation in own))
    for asked in threats:
        chosen = strongest(evaluation for evaluation in own if tuple(evaluation.threats) == asked)
        if chosen is not None:
            yield chosen


def _flat(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give the settings of model, data, trainer and seed, each under its place in the configuration."""

    def walk(value: Any, place: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from walk(inner, place if key == "init_args" else f"{place}.{key}")
        elif value is not None:
            yield place.removesuffix(".class_path"), value

    for section in ("model", "data", "trainer", "seed_everything"):
        yield from walk(config.get(section), section)


def _stage(evaluation: RecordedEvaluation) -> str:
    return "test" if evaluation.report.get("stage") == "test" else "validation"


def _boxes(evaluation: RecordedEvaluation) -> Any:
    """Return the pixel ranges of the threats, which their text leaves out."""
    return tuple(sorted({(attack.threat.lower, attack.threat.upper) for attack in evaluation.attacks.values()}))


def _identity(evaluation: RecordedEvaluation) -> tuple[str | None, Tensor, Tensor] | None:
    """What tells the images of an evaluation: a digest of them if it was recorded, their places and their labels."""
    samples = evaluation.samples
    if samples is None:
        return None
    order = samples.index.argsort()
    return evaluation.report.get("images_sha256"), samples.index[order], samples.y[order]


def _equal(one: tuple[str | None, Tensor, Tensor], two: tuple[str | None, Tensor, Tensor]) -> bool:
    if one[0] and two[0]:
        return one[0] == two[0]
    return torch.equal(one[1], two[1]) and torch.equal(one[2], two[2])


def _right(evaluation: RecordedEvaluation, measure: str) -> Tensor:
    """Mark the samples that the net has right, in the order of their index."""
    samples = evaluation.samples
    assert samples is not None
    right = samples.right if measure == "clean" else samples.robust()
    return right[samples.index.argsort()]
