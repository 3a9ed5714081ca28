"""One line an epoch, for the screen and for a job's log."""

import time

from lightning import Callback, LightningModule, Trainer

from lightning_robust.utils.messages import duration


class EpochLines(Callback):
    """Prints one line at the end of each training epoch: its number, loss, accuracies and time.

    The loss is the epoch's mean (`train/loss`), as a `Defense` logs it; clean and worst-case accuracy are those of the
    validation after the epoch (`val/clean_acc`, `val/worst_acc`), as `RobustEvaluation` logs them. What was not logged
    is left out. The line is printed above the progress bar, or into the log of a job that has none:

        epoch  3/40  loss 0.4123  clean  97.2 %  worst  81.0 %  12.3 s
    """

    def __init__(self) -> None:
        super().__init__()
        self._begun = time.monotonic()
        self._validated = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record when the epoch began."""
        self._begun, self._validated = time.monotonic(), False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the accuracies are this epoch's."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the epoch that ends."""
        metrics = trainer.callback_metrics  # on every rank: the means are taken over all of them
        if not trainer.is_global_zero:
            return
        epochs = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
        parts = [f"epoch {trainer.current_epoch + 1:{max(len(epochs) - 1, 1)}}{epochs}"]
        if "train/loss" in metrics:
            parts.append(f"loss {float(metrics['train/loss']):.4f}")
        for word in ("clean", "worst") if self._validated else ():
            accuracy = metrics.get(f"val/{word}_acc", metrics.get(f"val/{word}_acc/dataloader_idx_0"))
            if accuracy is not None:
                parts.append(f"{word} {float(accuracy):6.1%}".replace("%", " %"))
        line = "  ".join([*parts, duration(time.monotonic() - self._begun)])
        bar = trainer.progress_bar_callback
        show = bar.print if bar is not None and getattr(bar, "is_enabled", True) else print
        show(line)
