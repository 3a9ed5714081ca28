"""The distribution of the samples' radii, epoch by epoch."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_robust.callbacks.figures import save_figure
from lightning_robust.callbacks.run_folder import run_folder


class RadiusHistogram(Callback):
    """Draws a histogram of the radii after each epoch of a defense that keeps one for every sample.

    Writes `figures/radii-epoch<n>.png` in the run folder, and shows it in loggers that take figures.

    Args:
        every_n_epochs: how often to draw, >= 1.

    Raises:
        TypeError: for a module without radii.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        super().__init__()
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1, got {every_n_epochs}.")
        self.every_n_epochs = every_n_epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exchange the radii between ranks and draw them."""
        radii: Any = getattr(pl_module, "radii", None)
        if radii is None:
            raise TypeError(f"{type(pl_module).__name__} keeps no radii to draw: RadiusHistogram is for IAAT and MMA.")
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        radii.synchronise()  # on every rank
        directory = run_folder(trainer)
        if trainer.is_global_zero:
            values = radii.values.cpu()
            figure = radius_figure(values, f"epoch {trainer.current_epoch}: {len(values)} radii")
            save_figure(trainer, figure, f"radii-epoch{trainer.current_epoch:03d}", directory)


def radius_figure(radii: torch.Tensor, title: str) -> Figure:
    """Return a histogram of radii [n], in pixels in [0, 1], with their median."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.hist(radii.numpy(), bins=40, color="tab:blue")
    axes.axvline(float(radii.median()), color="tab:red", label=f"median {float(radii.median()):.4g}")
    axes.set(xlabel="radius (pixel values in [0, 1])", ylabel="training samples", title=title)
    axes.legend(loc="upper right")  # to look for the best place takes seconds where there are many samples
    return figure
