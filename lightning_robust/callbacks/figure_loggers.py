"""Figures in the loggers that take them."""

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure

from lightning_robust.utils.messages import survivable


def log_figure(logger: Logger, figure: Figure, name: str, path: Path, step: int) -> None:
    """Show a figure in a logger, by what the logger can do; one that takes no figures is left alone.

    Known ways are those of TensorBoard, Weights & Biases, MLflow, Comet and Neptune. A logger that fails is warned of.

    Args:
        logger: any of Lightning's.
        figure: what to show.
        name: under which the logger files it.
        path: the PNG file it was saved as.
        step: the trainer's global step.
    """
    with survivable(f"Showing the figure {name!r} in {type(logger).__name__}"):
        experiment: Any = getattr(logger, "experiment", None)
        if hasattr(experiment, "add_figure"):  # TensorBoard
            experiment.add_figure(name, figure, global_step=step, close=False)
        elif hasattr(logger, "log_image"):  # Weights & Biases
            logger.log_image(name, [str(path)], step=step)
        elif hasattr(experiment, "log_artifact") and hasattr(logger, "run_id"):  # MLflow
            experiment.log_artifact(logger.run_id, str(path), "figures")
        elif hasattr(experiment, "log_figure"):  # Comet
            experiment.log_figure(figure_name=name, figure=figure, step=step)
        elif hasattr(experiment, "__getitem__") and hasattr(experiment, "exists"):  # Neptune
            experiment[f"figures/{name}"].upload(str(path))
