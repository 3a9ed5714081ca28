"""What an evaluation of one data loader leaves: its report, its samples, its figures and its table."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning import Trainer
from matplotlib.figure import Figure

from lightning_robust.attacks.base import Attack
from lightning_robust.callbacks.collected import Collected
from lightning_robust.callbacks.figures import adversarial_grid, save_figure
from lightning_robust.callbacks.telling_examples import drawn, save_telling
from lightning_robust.evaluation.accuracy_figures import accuracy_by_class, accuracy_by_radius
from lightning_robust.evaluation.report_table import print_table
from lightning_robust.evaluation.sample_rows import sample_rows
from lightning_robust.utils.writers import write_csv, write_json


class EvaluationFiles:
    """Writes and draws the results for one data loader, on rank 0.

    Args:
        trainer: in its evaluation loop.
        attacks: the attacks that were run, by name.
        directory: the run's folder.
        name: the evaluation's name, with which its files begin; None for none.
        suffix: what the files' names end in where there are several loaders, such as "-1".
    """

    def __init__(
        self, trainer: Trainer, attacks: Mapping[str, Attack], directory: Path, name: str | None, suffix: str
    ) -> None:
        self.trainer, self.attacks, self.directory, self.suffix = trainer, attacks, directory, suffix
        self.stage = "test" if trainer.testing else "val"
        self.title = self.stage if name is None else f"{self.stage}, {name}"
        self.prefix = "" if name is None else f"{name}-"
        self.class_names = getattr(getattr(trainer, "datamodule", None), "class_names", None)

    def draw_examples(self, collected: Collected, shown: int) -> None:
        """Draw the most telling samples under each attack, so many at most."""
        report = collected.report
        for name, attack in self.attacks.items():
            examples = drawn(collected.samples, name, shown)
            if examples is None or examples.x.dim() != 4:  # vectors, series and volumes are no pictures
                continue
            correct = report["attacks"][name]["correct"]
            title = f"{name} ({attack.threat}): {correct} of {report['n']} correct"
            self._save(adversarial_grid(examples, title, self.class_names), name)

    def write(self, collected: Collected) -> None:
        """Write the report and the samples."""
        write_json(collected.report, self.directory / f"{self.prefix}robustness{self.suffix}.json")
        rows = sample_rows(collected.samples, self.attacks, collected.indexed)
        write_csv(*rows, self.directory / f"{self.prefix}samples{self.suffix}.csv")

    def write_examples(self, collected: Collected, shown: int) -> None:
        """Write the most telling examples, so many at most, for a report."""
        path = self.directory / f"{self.prefix}examples{self.suffix}.npz"
        save_telling(collected.samples, self.attacks, shown, path)

    def draw_accuracies(self, collected: Collected) -> None:
        """Draw accuracy against radius, where an attack looks for the nearest example, and accuracy by class."""
        by_radius = accuracy_by_radius(collected.samples, self.attacks)
        if by_radius is not None:
            self._save(by_radius, "radius")
        self._save(accuracy_by_class(collected.samples, self.attacks, self.class_names), "classes")

    def print(self, collected: Collected) -> None:
        """Print the table of accuracies."""
        print_table(collected.report, f"{self.title}: {collected.report['n']} samples")

    def _save(self, figure: Figure, name: str) -> None:
        save_figure(self.trainer, figure, f"{self.prefix}{self.stage}-{name}{self.suffix}", self.directory)


def refuse_names(names: Sequence[str]) -> None:
    """Raise for names of attacks and evaluations under which results would be lost or written over others.

    Args:
        names: parts of the names of files and of logged numbers.

    Raises:
        ValueError: for a name with a slash, or one that a figure has already.
    """
    for name in names:
        if "/" in name or "\\" in name or name in ("radius", "classes"):
            raise ValueError(
                f"Names of attacks and evaluations become parts of file names, beside figures called radius and "
                f"classes: choose another one than {name!r}, without slashes."
            )
