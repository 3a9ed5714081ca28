"""The charts of a run's report, from what its training and its evaluation left."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure

from lightning_robust.evaluation.accuracy_figures import accuracy_by_class, accuracy_by_radius
from lightning_robust.evaluation.optimality import in_words
from lightning_robust.publish.charts import curves_chart, radii_chart
from lightning_robust.publish.evaluations import RecordedEvaluation
from lightning_robust.publish.run_files import Run
from lightning_robust.publish.svg import themed_svg

MOST_CURVES = 8
"""How many further panels of logged numbers a page has at most."""


class Chart(NamedTuple):
    """A chart of a report.

    Args:
        name: of its file.
        figure: what is drawn.
        caption: what stands below it.
    """

    name: str
    figure: Figure
    caption: str

    @property
    def svg(self) -> Markup:
        """The figure in the colours of the page; matplotlib escapes the text in it."""
        return Markup(themed_svg(self.figure, self.name))


def training_charts(run: Run) -> Iterator[Chart]:
    """Draw what the training logged: loss, accuracies, and whatever else the method follows."""
    curves = {name: values for name, values in run.curves.items() if not name.startswith("test/")}
    losses = {name: values for name, values in curves.items() if name.endswith("/loss")}
    shares = {name: values for name, values in curves.items() if name.endswith("_acc")}
    rest = {name: values for name, values in curves.items() if name not in losses and name not in shares}
    if losses:
        yield Chart("loss", curves_chart(losses, "loss"), "Loss by epoch.")
    if shares:
        drawn = curves_chart(shares, "accuracy, %", percent=True)
        yield Chart("accuracy", drawn, "Accuracy by epoch, in training and in validation.")
    radii = {name: rest.pop(name) for name in list(rest) if name.startswith("train/radius_q")}
    if radii:
        drawn = curves_chart(radii, "radius")
        yield Chart("radius-quantiles", drawn, "Quantiles of the training samples' radii (IAAT).")
    if run.radii is not None:
        yield Chart("radii", radii_chart(run.radii), f"Radii of {len(run.radii)} training samples (IAAT).")
    for name, values in list(rest.items())[:MOST_CURVES]:
        yield Chart(name.replace("/", "-"), curves_chart({name: values}, name.rpartition("/")[2]), f"{name} by epoch.")


def robustness_charts(evaluation: RecordedEvaluation) -> Iterator[Chart]:
    """Draw accuracy by radius and by class, where it is known what was found about each sample."""
    samples = evaluation.samples
    if samples is None:
        return
    attacks: Any = evaluation.attacks
    drawn = accuracy_by_radius(samples, attacks)
    if drawn is not None:
        caption = "Accuracy by radius, from the nearest example found for each image; bands are 95 % intervals."
        yield Chart("radius", drawn, " ".join(filter(None, [caption, in_words(evaluation.report["attacks"])])))
    if attacks:
        yield Chart(
            "classes",
            accuracy_by_class(samples, attacks, evaluation.class_names),
            "Accuracy by class, with 95 % intervals.",
        )
