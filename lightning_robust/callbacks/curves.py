"""Logged numbers as curves, redrawn while training goes on."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_robust.callbacks.figures import save_figure
from lightning_robust.callbacks.run_folder import run_folder


class Curves(Callback):
    """Draws logged numbers against the epoch, one panel each, into `figures/curves.png` after each epoch.

    Args:
        names: the logged names of the numbers, such as "train/gap". One that is not logged is left out.
    """

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names
        self.history: dict[str, dict[int, float]] = {name: {} for name in names}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the epoch's numbers and draw the curves."""
        metrics = trainer.callback_metrics  # on every rank: metrics are exchanged when they are read
        for name in self.names:
            if name in metrics:
                self.history[name][trainer.current_epoch] = float(metrics[name])
        directory = run_folder(trainer)
        if trainer.is_global_zero:
            save_figure(trainer, curves(self.history), "curves", directory)

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers recorded so far."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the numbers recorded before the run was interrupted."""
        self.history = {name: state_dict["history"].get(name, {}) for name in self.names}


def curves(history: dict[str, dict[int, float]]) -> Figure:
    """Return a figure with one panel for each number: its values by epoch."""
    figure = Figure(figsize=(3.6 * max(len(history), 1), 3), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, values) in zip(
        figure.subplots(1, max(len(history), 1), squeeze=False)[0], history.items(), strict=False
    ):
        axes.plot(list(values), list(values.values()), marker="." if len(values) < 40 else None)
        axes.set(xlabel="epoch", title=name)
        axes.grid(alpha=0.3)
    return figure
